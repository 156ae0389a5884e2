package main

// A second implementation of the protocol, written from the table at the top
// of protocol.go alone: none of the functions, types and constants of that
// file are used here. It meets the real program over the loopback network, as
// a good neighbour and as a bad one. Whatever it needs that the table doesn't
// say is a mistake of the table.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ---- keys and identity

// A foreignRoom is the two keys that are derived from a room's.
type foreignRoom struct{ beacon, proof []byte }

func foreignOpenRoom(t testing.TB) foreignRoom {
	key := sha256.Sum256([]byte("p2pchat open room"))
	return foreignDerive(t, key[:])
}

func foreignPrivateRoom(t testing.TB, passphrase string) foreignRoom {
	key, err := pbkdf2.Key(sha256.New, passphrase, []byte("p2pchat room"), 600000, 32)
	must(t, err)
	return foreignDerive(t, key)
}

func foreignDerive(t testing.TB, key []byte) (r foreignRoom) {
	var err error
	r.beacon, err = hkdf.Expand(sha256.New, key, "beacon", 32)
	must(t, err)
	r.proof, err = hkdf.Expand(sha256.New, key, "proof", 32)
	must(t, err)
	return r
}

type foreignID [32]byte

// A foreignSelf is an identity, and what it has said so far.
type foreignSelf struct {
	name  string
	key   ed25519.PrivateKey
	id    foreignID
	said  [][]byte // its posts, sealed
	link  [32]byte // of the last
	stamp uint64   // time of the last
}

func newForeignSelf(t testing.TB, name string) *foreignSelf {
	public, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	return &foreignSelf{name: name, key: key, id: foreignID(public)}
}

// newForeignSelfBeside makes keys until the ID sorts before, or after, another.
func newForeignSelfBeside(t testing.TB, name string, other foreignID, lower bool) *foreignSelf {
	for {
		if s := newForeignSelf(t, name); (bytes.Compare(s.id[:], other[:]) < 0) == lower {
			return s
		}
	}
}

func (s *foreignSelf) certificate(t testing.TB) tls.Certificate {
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.key}
}

// ---- posts

const (
	foreignJoin  = 1
	foreignLines = 2
	foreignLeave = 4
)

var foreignAddress = []byte{0, 9, 4, 127, 0, 0, 1} // port 9 of 127.0.0.1: nobody listens there

// writes makes the next post. Its time may be set, or 0 for the present.
func (s *foreignSelf) writes(kind byte, text string) []byte {
	return s.saysAt(uint64(time.Now().UnixMicro()), kind, text)
}

func (s *foreignSelf) saysAt(stamp uint64, kind byte, text string) []byte {
	s.stamp = max(stamp, s.stamp+1)
	b := binary.BigEndian.AppendUint64(nil, uint64(len(s.said)+1))
	b = binary.BigEndian.AppendUint64(b, s.stamp)
	b = append(append(b, s.link[:]...), kind)
	b = append(append(b, foreignAddress...), byte(len(s.name)))
	b = append(append(b, s.name...), text...)
	digest := foreignDigest(s.id, b)
	b = append(b, ed25519.Sign(s.key, digest)...)
	s.link = foreignLink(s.id, b)
	s.said = append(s.said, b)
	return b
}

func foreignDigest(author foreignID, unsigned []byte) []byte {
	d := sha256.Sum256(slices.Concat([]byte("p2pchat post 1"), author[:], unsigned))
	return d[:]
}

func foreignLink(author foreignID, post []byte) [32]byte {
	n := len(post) - 64
	return sha256.Sum256(slices.Concat(foreignDigest(author, post[:n]), post[n:]))
}

// A foreignPost is a post taken apart.
type foreignPost struct {
	number, stamp uint64
	kind          byte
	name, text    string
}

// foreignRead takes the body of a POSTS frame apart and checks all that can
// be checked of it: that each post follows on the one before, given the link
// of what was before the first, and every signature.
func foreignRead(t testing.TB, body []byte, link map[foreignID][32]byte) (author foreignID, posts []foreignPost) {
	t.Helper()
	author = foreignID(body[:32])
	for body = body[32:]; len(body) > 0; {
		n := binary.BigEndian.Uint32(body)
		b := body[4 : 4+n]
		body = body[4+n:]
		p := foreignPost{number: binary.BigEndian.Uint64(b), stamp: binary.BigEndian.Uint64(b[8:]), kind: b[48]}
		if before := link[author]; !bytes.Equal(b[16:48], before[:]) {
			t.Errorf("post %d of %x does not follow", p.number, author[:4])
		}
		end := len(b) - 64
		if !ed25519.Verify(author[:], foreignDigest(author, b[:end]), b[end:]) {
			t.Errorf("post %d of %x has a bad signature", p.number, author[:4])
		}
		rest := b[49+3+int(b[51]) : end]
		p.name, p.text = string(rest[1:1+rest[0]]), string(rest[1+rest[0]:])
		link[author] = foreignLink(author, b)
		posts = append(posts, p)
	}
	return author, posts
}

// foreignRun lays posts out as the body of a POSTS frame.
func foreignRun(author foreignID, posts ...[]byte) []byte {
	b := author[:]
	for _, p := range posts {
		b = append(binary.BigEndian.AppendUint32(slices.Clip(b), uint32(len(p))), p...)
	}
	return b
}

// ---- connections

const (
	foreignPROOF  = 1
	foreignHELLO  = 2
	foreignHAVE   = 3
	foreignWANT   = 4
	foreignPOSTS  = 5
	foreignDIRECT = 6
	foreignSEEN   = 7
	foreignGOT    = 10
	foreignBYE    = 8
)

// A foreignConn is a connection with the program under test.
type foreignConn struct {
	t        testing.TB
	self     *foreignSelf
	tls      *tls.Conn
	peer     foreignID
	exporter []byte
	dialed   bool
	later    bool                   // self is of a later version, which adds to its frames
	link     map[foreignID][32]byte // of the last post that came, by author
}

const foreignPatience = 30 * time.Second // which only a broken program tries

// foreignMeet does TLS over raw.
func foreignMeet(t testing.TB, raw net.Conn, self *foreignSelf, dialed bool) *foreignConn {
	t.Helper()
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(60 * time.Second))
	cfg := &tls.Config{
		Certificates:       []tls.Certificate{self.certificate(t)},
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
	}
	c := &foreignConn{t: t, self: self, dialed: dialed, link: map[foreignID][32]byte{}}
	if c.tls = tls.Server(raw, cfg); dialed {
		c.tls = tls.Client(raw, cfg)
	}
	must(t, c.tls.Handshake())
	state := c.tls.ConnectionState()
	c.peer = foreignID(state.PeerCertificates[0].PublicKey.(ed25519.PublicKey))
	var err error
	c.exporter, err = state.ExportKeyingMaterial("EXPORTER-p2pchat", nil, 32)
	must(t, err)
	return c
}

func foreignDial(t testing.TB, port int, self *foreignSelf) *foreignConn {
	t.Helper()
	raw, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	must(t, err)
	return foreignMeet(t, raw, self, true)
}

// proof is the PROOF of one of the two roles on this connection.
func (c *foreignConn) proof(room foreignRoom, role string) []byte {
	dialing, listening := c.peer, c.self.id
	if c.dialed {
		dialing, listening = c.self.id, c.peer
	}
	m := hmac.New(sha256.New, room.proof)
	m.Write(slices.Concat([]byte(role), c.exporter, dialing[:], listening[:]))
	return m.Sum(nil)
}

func (c *foreignConn) sends(typ byte, body []byte) {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+1))
	c.tls.Write(append(append(b, typ), body...)) // that the program hung up shows when we read
}

// reads returns the next frame, or an error at the end of the connection.
func (c *foreignConn) reads() (typ byte, body []byte, err error) {
	c.tls.SetReadDeadline(time.Now().Add(foreignPatience))
	head := make([]byte, 5)
	if _, err := io.ReadFull(c.tls, head); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head)-1)
	_, err = io.ReadFull(c.tls, body)
	return head[4], body, err
}

// wants reads until a frame of the type comes that is good.
func (c *foreignConn) wants(what string, typ byte, good func(body []byte) bool) {
	c.t.Helper()
	for {
		got, body, err := c.reads()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", what, err)
		}
		if got == typ && good(body) {
			return
		}
	}
}

// wantPost reads until a post comes that is good.
func (c *foreignConn) wantPost(what string, good func(author foreignID, p foreignPost) bool) {
	c.t.Helper()
	c.wants(what, foreignPOSTS, func(body []byte) (found bool) {
		author, posts := foreignRead(c.t, body, c.link)
		for _, p := range posts {
			found = found || good(author, p)
		}
		return found
	})
}

// wantEnd reads until the connection ends, and fails if anything but a BYE,
// and of what tolerated allows, comes before that.
func (c *foreignConn) wantEnd(what string, tolerated ...byte) {
	c.t.Helper()
	for {
		typ, body, err := c.reads()
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			c.t.Errorf("%s: the connection goes on", what)
		}
		if err != nil {
			return
		}
		if typ != foreignBYE && typ != foreignGOT && !slices.Contains(tolerated, typ) {
			c.t.Errorf("%s: is answered by a frame of type %d, %x", what, typ, body)
		}
	}
}

// shakes proves and greets, as the table says.
func (c *foreignConn) shakes(room foreignRoom) *foreignConn {
	c.t.Helper()
	mine, theirs, more := "l", "d", []byte(nil)
	if c.later {
		more = []byte("what a later version adds")
	}
	if c.dialed {
		mine, theirs = "d", "l"
		c.sends(foreignPROOF, append(c.proof(room, mine), more...))
	}
	typ, body, err := c.reads()
	if err != nil || typ != foreignPROOF || !hmac.Equal(body, c.proof(room, theirs)) {
		c.t.Fatalf("the program proves itself by a frame of type %d, %x, %v", typ, body, err)
	}
	if !c.dialed {
		c.sends(foreignPROOF, append(c.proof(room, mine), more...))
	}
	hello := []byte{0, 1, 0, 0, 0, 1}
	if c.later {
		hello[0] = 0xff
	}
	hello = binary.BigEndian.AppendUint64(hello, uint64(time.Now().UnixMicro()))
	hello = append(append(hello, 0, 9, byte(len(c.self.name))), c.self.name...)
	hello = append(hello, more...)
	higher := bytes.Compare(c.self.id[:], c.peer[:]) > 0
	if higher {
		c.sends(foreignHELLO, hello)
	}
	if typ, body, err = c.reads(); err != nil || typ != foreignHELLO || len(body) < 17 {
		c.t.Fatalf("the program greets by a frame of type %d, %x, %v", typ, body, err)
	}
	if !higher {
		c.sends(foreignHELLO, hello)
	}
	return c
}

// foreignHolds is the body of a HAVE that says that all posts of some authors are
// here, and that this is all.
func foreignHolds(authors ...*foreignSelf) []byte {
	b := append([]byte{1}, make([]byte, 8)...)
	for _, a := range authors {
		if len(a.said) == 0 {
			continue
		}
		b = binary.BigEndian.AppendUint64(append(b, a.id[:]...), 1)
		b = binary.BigEndian.AppendUint64(b, uint64(len(a.said)))
		b = append(append(b, a.link[:8]...), 0, 0, 0)
	}
	return b
}

// foreignSpans takes a HAVE apart: the last post held of each author.
func foreignSpans(body []byte) (last map[foreignID]uint64, mark map[foreignID][]byte, complete bool) {
	last, mark = map[foreignID]uint64{}, map[foreignID][]byte{}
	complete = body[0]&1 != 0
	for b := body[9:]; len(b) >= 59; b = b[59+int(b[58]):] {
		last[foreignID(b)], mark[foreignID(b)] = binary.BigEndian.Uint64(b[40:]), b[48:56]
	}
	return last, mark, complete
}

// foreignEntry returns what a HAVE says of an author: the last post held, and
// the port where the sender is connected with it.
func foreignEntry(body []byte, author foreignID) (last uint64, port uint16, found bool) {
	for b := body[9:]; len(b) >= 59; b = b[59+int(b[58]):] {
		if foreignID(b) == author {
			last, port, found = binary.BigEndian.Uint64(b[40:]), binary.BigEndian.Uint16(b[56:]), true
		}
	}
	return last, port, found
}

// joins says what self says first when it is connected.
func (c *foreignConn) joins() {
	c.self.writes(foreignJoin, "")
	c.sends(foreignHAVE, foreignHolds(c.self))
	c.sends(foreignPOSTS, foreignRun(c.self.id, c.self.said...))
}

// foreignTCPPort learns from standard error where a program listens.
func foreignTCPPort(p *proc) int {
	line := p.complains(foreignPatience, ` at 127\.0\.0\.1:\d+ in `)
	port, err := strconv.Atoi(regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)[1])
	must(p.t, err)
	return port
}

// foreignProbe returns the ID of the program that listens there.
func foreignProbe(t testing.TB, port int) foreignID {
	c := foreignDial(t, port, newForeignSelf(t, "Probe"))
	c.tls.NetConn().Close()
	return c.peer
}

// ---- as a good neighbour

func TestForeignImplementationTakesPart(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	ann := startNode(t, room, []string{"Ann"})
	port := foreignTCPPort(ann)
	bob := startNode(t, room, []string{"Bob"})
	ann.sees(foreignPatience, ` \* Bob@127.0.0.1:\d+ joined$`)
	bob.say("from Bob", "who leaves")
	bob.closeInput()
	ann.sees(foreignPatience, ` \* Bob@127.0.0.1:\d+ left$`)
	ann.say("before you came")
	ann.sees(foreignPatience, ` Ann \(me\): before you came$`)
	id := foreignProbe(t, port)
	for _, c := range []struct {
		name  string
		lower bool
	}{{"Lo", true}, {"Hi", false}} {
		t.Run(c.name, func(t *testing.T) {
			self := newForeignSelfBeside(t, c.name, id, c.lower)
			foreignVisit(t, foreignDial(t, port, self).shakes(foreignOpenRoom(t)), ann)
		})
	}
	for _, s := range ann.out.lines() {
		if strings.Contains(s, " lost") {
			t.Errorf("Ann shows %q, though everybody said goodbye", s)
		}
	}
}

// foreignVisit reads the history, says something to everybody and to Ann
// alone, hears her, and leaves.
func foreignVisit(t *testing.T, c *foreignConn, ann *proc) {
	self, me := c.self, regexp.QuoteMeta(c.self.name)+`@127\.0\.0\.1:9`
	self.writes(foreignJoin, "")
	c.sends(foreignHAVE, foreignHolds(self))

	var all map[foreignID]uint64
	c.wants("the vector", foreignHAVE, func(body []byte) bool {
		last, _, complete := foreignSpans(body)
		if all == nil {
			all = last
		}
		return complete
	})
	if all[c.peer] < 2 || len(all) < 2 {
		t.Errorf("the program holds %d of its own posts, and %d authors", all[c.peer], len(all))
	}
	for author := range all {
		if author != c.peer && author != self.id {
			c.sends(foreignWANT, append(author[:], 0, 0, 0, 0, 0, 0, 0, 1, 0))
		}
	}
	heard := map[string]bool{}
	c.wantPost("the history", func(_ foreignID, p foreignPost) bool {
		for line := range strings.SplitSeq(p.text, "\n") {
			heard[fmt.Sprint(p.name, p.kind, line)] = true
		}
		return heard["Ann1"] && heard["Ann2before you came"] && heard["Bob1"] && heard["Bob2from Bob"] && heard["Bob2who leaves"] && heard["Bob4"]
	})

	self.writes(foreignLines, "hello from elsewhere\nin two lines")
	c.sends(foreignPOSTS, foreignRun(self.id, self.said...))
	ann.sees(foreignPatience, ` \* `+me+` joined$`)
	ann.sees(foreignPatience, ` `+me+`: hello from elsewhere$`)
	ann.sees(foreignPatience, ` `+me+`: in two lines$`)
	c.wants("the acknowledgement", foreignHAVE, func(body []byte) bool {
		last, mark, _ := foreignSpans(body)
		return last[self.id] == 2 && bytes.Equal(mark[self.id], self.link[:8])
	})

	message := append(binary.BigEndian.AppendUint64([]byte{0, 0, 0, 0, 0, 0, 0, 1}, self.stamp), "just for you"...)
	c.sends(foreignDIRECT, message)
	c.sends(foreignDIRECT, message) // as after a connection that broke
	taken := []byte{0, 0, 0, 0, 0, 0, 0, 1}
	c.wants("that it has arrived", foreignHAVE, func(body []byte) bool { return bytes.Equal(body[1:9], taken) })
	ann.sees(foreignPatience, ` `+me+` -> me: just for you$`)
	ann.say("@" + self.name + " thanks")
	c.wants("the answer", foreignDIRECT, func(body []byte) bool {
		c.sends(foreignHAVE, append([]byte{0}, body[:8]...))
		return string(body[16:]) == "thanks"
	})
	ann.sees(foreignPatience, ` Ann \(me\) -> `+me+`: thanks$`)
	ann.say("to everybody")
	c.wantPost("what Ann says", func(author foreignID, p foreignPost) bool {
		return author == c.peer && p.name == "Ann" && p.kind == foreignLines && p.text == "to everybody"
	})

	c.sends(99, []byte("a frame of a later version"))
	c.sends(foreignHAVE, make([]byte, 9))
	c.sends(foreignPOSTS, foreignRun(self.id, self.writes(foreignLeave, "")))
	c.sends(foreignBYE, []byte{1})
	ann.sees(foreignPatience, ` \* `+me+` left$`)
	if n := ann.count(` ` + me + ` -> me: just for you$`); n != 1 {
		t.Errorf("Ann shows %d times what was sent to her", n)
	}
}

func TestForeignImplementationIsFoundByItsBeacon(t *testing.T) {
	t.Parallel()
	room, keys := freePort(t), foreignOpenRoom(t)
	block, err := aes.NewCipher(keys.beacon)
	must(t, err)
	seal, err := cipher.NewGCM(block)
	must(t, err)
	hear, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 0), Port: room}) // shared with the program
	must(t, err)
	defer hear.Close()
	ann := startNode(t, room, []string{"Ann"})
	port := foreignTCPPort(ann)
	id := foreignProbe(t, port)

	hear.SetReadDeadline(time.Now().Add(foreignPatience))
	packet := make([]byte, 1500)
	n, from, err := hear.ReadFromUDPAddrPort(packet)
	must(t, err)
	if n != 268 || !from.Addr().IsLoopback() {
		t.Fatalf("a beacon of %d bytes from %v", n, from)
	}
	plain, err := seal.Open(nil, packet[:12], packet[12:n], []byte("p2pchat beacon 1"))
	must(t, err)
	if want := append(binary.BigEndian.AppendUint16(nil, uint16(port)), "\x03Ann\x00"...); foreignID(plain) != id || !bytes.Equal(plain[40:47], want) {
		t.Errorf("the beacon says %x, want the ID %x and %x", plain, id, want)
	}
	if !ed25519.Verify(id[:], append([]byte("p2pchat beacon 1"), plain[:176]...), plain[176:]) {
		t.Error("the beacon is not signed by its node")
	}

	for _, lower := range []bool{true, false} {
		t.Run(fmt.Sprint("lower=", lower), func(t *testing.T) {
			self := newForeignSelfBeside(t, "Far", id, lower)
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			must(t, err)
			defer l.Close()
			speak, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			must(t, err)
			defer speak.Close()
			plain := make([]byte, 176)
			copy(plain, self.id[:])
			binary.BigEndian.PutUint64(plain[32:], 1)
			binary.BigEndian.PutUint16(plain[40:], uint16(l.Addr().(*net.TCPAddr).Port))
			copy(plain[42:], "\x03Far")
			plain = append(plain, ed25519.Sign(self.key, append([]byte("p2pchat beacon 1"), plain...))...)
			nonce := make([]byte, 12)
			rand.Read(nonce)
			_, err = speak.WriteToUDPAddrPort(seal.Seal(nonce, nonce, plain, []byte("p2pchat beacon 1")), // replaces nonce
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 255, 255, 255}), uint16(room)))
			must(t, err)
			l.(*net.TCPListener).SetDeadline(time.Now().Add(foreignPatience))
			raw, err := l.Accept()
			must(t, err)
			c := foreignMeet(t, raw, self, false).shakes(keys)
			self.writes(foreignJoin, "")
			c.sends(foreignHAVE, foreignHolds(self))
			c.sends(foreignPOSTS, foreignRun(self.id, self.said...))
			ann.sees(foreignPatience, ` \* Far@127.0.0.1:9 joined$`)
			c.sends(foreignPOSTS, foreignRun(self.id, self.writes(foreignLines, fmt.Sprint("lower: ", lower))))
			ann.sees(foreignPatience, fmt.Sprint(` Far@127.0.0.1:9: lower: `, lower))
			c.sends(foreignPOSTS, foreignRun(self.id, self.writes(foreignLeave, "")))
			ann.sees(foreignPatience, ` \* Far@127.0.0.1:9 left$`)
		})
	}
}

// TestForeignWatcherIsToldOfWhomItDoesNotHear: HAVE comes again when the program's
// connection with an author comes or ends, and when the author said something,
// since the watcher isn't connected with it.
func TestForeignWatcherIsToldOfWhomItDoesNotHear(t *testing.T) {
	t.Parallel()
	room := foreignOpenRoom(t)
	ann := startNode(t, freePort(t), []string{"Ann"})
	port := foreignTCPPort(ann)
	watcher := foreignDial(t, port, newForeignSelf(t, "Watcher")).shakes(room)
	watcher.joins()
	far := foreignDial(t, port, newForeignSelf(t, "Far")).shakes(room)
	far.joins()
	is := func(last uint64, connected bool) func([]byte) bool {
		return func(body []byte) bool {
			got, port, found := foreignEntry(body, far.self.id)
			return found && got == last && (port == 9) == connected
		}
	}
	watcher.wants("that Far is there and joined", foreignHAVE, is(1, true))
	far.sends(foreignPOSTS, foreignRun(far.self.id, far.self.writes(foreignLines, "from afar")))
	watcher.wants("that Far said something", foreignHAVE, is(2, true))
	watcher.sends(foreignWANT, append(far.self.id[:], 0, 0, 0, 0, 0, 0, 0, 1, 0))
	watcher.wantPost("what Far said", func(author foreignID, p foreignPost) bool {
		return author == far.self.id && p.text == "from afar"
	})
	far.sends(foreignPOSTS, foreignRun(far.self.id, far.self.writes(foreignLines, "and on")))
	watcher.wantPost("what it says next, unasked", func(author foreignID, p foreignPost) bool {
		return author == far.self.id && p.text == "and on"
	})
	far.sends(foreignPOSTS, foreignRun(far.self.id, far.self.writes(foreignLeave, "")))
	far.sends(foreignBYE, []byte{1})
	watcher.wants("that Far is gone", foreignHAVE, is(4, false))
}

// TestForeignRelayIsAskedForWhomItHears: a node asks a peer that is connected
// with an author whom it can't reach itself, and believes what that peer sees.
func TestForeignRelayIsAskedForWhomItHears(t *testing.T) {
	t.Parallel()
	ann := startNode(t, freePort(t), []string{"Ann"})
	relay := foreignDial(t, foreignTCPPort(ann), newForeignSelf(t, "Relay")).shakes(foreignOpenRoom(t))
	relay.joins()
	ann.sees(foreignPatience, ` \* Relay@127\.0\.0\.1:9 joined$`)
	far := newForeignSelf(t, "Far")
	far.writes(foreignJoin, "")
	hears := func(address []byte) []byte { // of Far, and nothing else
		b := foreignHolds(far)
		return append(b[:len(b)-3], address...)
	}
	relay.sends(foreignHAVE, hears(foreignAddress))
	relay.wants("to be asked for Far", foreignWANT, func(b []byte) bool { return bytes.HasPrefix(b, far.id[:]) && b[39] == 1 })
	relay.sends(foreignPOSTS, foreignRun(far.id, far.said...))
	relay.sends(foreignPOSTS, foreignRun(far.id, far.writes(foreignLines, "from afar")))
	ann.sees(foreignPatience, ` Far@127\.0\.0\.1:9\??: from afar$`)
	relay.sends(foreignHAVE, hears([]byte{0, 0, 0}))
	seen := binary.BigEndian.AppendUint64(append(far.id[:], 5), uint64(time.Now().UnixMicro()))
	relay.sends(foreignSEEN, slices.Concat(seen, []byte("\x03Far"), foreignAddress))
	ann.sees(foreignPatience, ` \* Far@127\.0\.0\.1:9\?? lost$`)
}

// TestLaterVersionMayAddToFrames: bytes behind the fields of PROOF and HELLO are
// skipped, as is a greater version.
func TestLaterVersionMayAddToFrames(t *testing.T) {
	t.Parallel()
	ann := startNode(t, freePort(t), []string{"Ann"})
	port := foreignTCPPort(ann)
	id := foreignProbe(t, port)
	for _, lower := range []bool{true, false} {
		c := foreignDial(t, port, newForeignSelfBeside(t, fmt.Sprint("lower-", lower), id, lower))
		c.later = true
		c.shakes(foreignOpenRoom(t))
		c.joins()
		ann.sees(foreignPatience, ` \* `+c.self.name+`@127.0.0.1:9\?? joined$`)
	}
}

// ---- as a stranger without the key

const foreignSecret = "correct horse"

func TestWhoLacksTheRoomKeyLearnsNothing(t *testing.T) {
	t.Parallel()
	ann := startNode(t, freePort(t), []string{"Ann"}, withEnv("P2PCHAT_SECRET="+foreignSecret))
	port := foreignTCPPort(ann)
	ann.say("for members only")
	for name, first := range map[string]func(*foreignConn){
		"the proof of the open room":  func(c *foreignConn) { c.sends(foreignPROOF, c.proof(foreignOpenRoom(c.t), "d")) },
		"the proof of another secret": func(c *foreignConn) { c.sends(foreignPROOF, c.proof(foreignDerive(c.t, make([]byte, 32)), "d")) },
		"no proof":                    func(c *foreignConn) { c.sends(foreignPROOF, nil) },
		"zeros":                       func(c *foreignConn) { c.sends(foreignPROOF, make([]byte, 32)) },
		"a greeting":                  func(c *foreignConn) { c.sends(foreignHELLO, make([]byte, 20)) },
		"a question":                  func(c *foreignConn) { c.sends(foreignWANT, append(c.peer[:], 0, 0, 0, 0, 0, 0, 0, 1)) },
		"a giant frame":               func(c *foreignConn) { c.tls.Write([]byte{0, 0x0f, 0xff, 0xff, foreignPROOF}) },
		"no TLS":                      func(c *foreignConn) { c.tls.NetConn().Write([]byte("GET / HTTP/1.0\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			c := foreignDial(t, port, newForeignSelf(t, "Eve"))
			first(c)
			c.wantEnd(name)
		})
	}
	self := newForeignSelf(t, "Member") // the same with the right key goes on
	self.writes(foreignJoin, "")
	room := foreignPrivateRoom(t, foreignSecret) // takes a while
	c := foreignDial(t, port, self).shakes(room)
	c.sends(foreignHAVE, foreignHolds(self))
	c.wantPost("what is for members", func(_ foreignID, p foreignPost) bool { return p.text == "for members only" })
	for _, s := range ann.out.lines() {
		if strings.Contains(s, "Eve") {
			t.Errorf("Ann shows %q of one who has not the key", s)
		}
	}
}

func TestReflectedAndReplayedProofsAreRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	ann := startNode(t, freePort(t), []string{"-peer", l.Addr().String(), "Ann"})
	port := foreignTCPPort(ann)
	eve := newForeignSelf(t, "Eve") // who has, as far as it matters, no key of the room

	l.(*net.TCPListener).SetDeadline(time.Now().Add(foreignPatience))
	raw, err := l.Accept()
	must(t, err)
	c := foreignMeet(t, raw, eve, false)
	typ, proof, err := c.reads()
	if err != nil || typ != foreignPROOF {
		t.Fatalf("who dials begins with a frame of type %d, %v", typ, err)
	}
	c.sends(foreignPROOF, proof)
	c.wantEnd("its own proof, reflected")

	again := foreignDial(t, port, eve)
	again.sends(foreignPROOF, proof)
	again.wantEnd("its own proof, on another connection")
	if n := len(ann.out.lines()); n > 0 {
		t.Errorf("Ann shows %q", ann.out.String())
	}
}

// ---- as a relay that lies

func TestRelayThatLiesIsCutOffAndNothingOfItShown(t *testing.T) {
	t.Parallel()
	room := foreignOpenRoom(t)
	ann := startNode(t, freePort(t), []string{"Ann"})
	port := foreignTCPPort(ann)

	friend := newForeignSelf(t, "Friend")
	friend.writes(foreignJoin, "")
	good := foreignDial(t, port, friend).shakes(room)
	good.sends(foreignHAVE, foreignHolds(friend))
	good.sends(foreignPOSTS, foreignRun(friend.id, friend.said...))
	ann.sees(foreignPatience, ` \* Friend@127.0.0.1:9 joined$`)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // heartbeats, and what comes is read
		for {
			select {
			case <-time.After(time.Second):
				good.sends(foreignHAVE, make([]byte, 9))
			case <-stop:
				return
			}
		}
	}()
	go io.Copy(io.Discard, good.tls) // ends with the connection, which Cleanup closes

	vic := newForeignSelf(t, "Vic")
	start := uint64(time.Now().Add(-time.Hour).UnixMicro())
	vic.saysAt(start, foreignJoin, "")
	for i := range 4 {
		vic.saysAt(start+uint64(i+1)*1e6, foreignLines, fmt.Sprint("true line ", i))
	}
	altered := func(i int, change func([]byte) []byte) [][]byte {
		posts := slices.Clone(vic.said)
		posts[i] = change(bytes.Clone(posts[i]))
		return posts
	}
	text := func(p []byte) []byte { return bytes.Replace(p, []byte("true"), []byte("lied"), 1) }
	name := func(p []byte) []byte { return bytes.Replace(p, []byte("Vic"), []byte("Vip"), 1) }
	back := func(p []byte) []byte {
		binary.BigEndian.PutUint64(p[8:], binary.BigEndian.Uint64(p[8:])-1e5)
		return p
	}
	mimic := func() [][]byte { // Vic's whole life, invented by somebody who has another key
		m := newForeignSelf(t, "Vic")
		m.id = vic.id
		m.saysAt(start, foreignJoin, "")
		m.saysAt(start+5, foreignLines, "lied from the beginning")
		return m.said
	}
	follow := func() [][]byte { // one more, as if by Vic
		m := newForeignSelf(t, "Vic")
		m.id, m.link, m.stamp, m.said = vic.id, vic.link, vic.stamp, slices.Clone(vic.said)
		m.writes(foreignLines, "lied at the end")
		return m.said
	}
	own := func(mallory *foreignSelf) [][]byte {
		return append(slices.Clone(vic.said), mallory.writes(foreignLines, "lied under another's name"))
	}
	for _, c := range []struct {
		name  string
		posts func(mallory *foreignSelf) []byte
	}{
		{"a line altered in the middle", func(*foreignSelf) []byte { return foreignRun(vic.id, altered(2, text)...) }},
		{"a line altered at the end", func(*foreignSelf) []byte { return foreignRun(vic.id, altered(4, text)...) }},
		{"a name altered", func(*foreignSelf) []byte { return foreignRun(vic.id, altered(4, name)...) }},
		{"one back-dated", func(*foreignSelf) []byte { return foreignRun(vic.id, altered(3, back)...) }},
		{"one back-dated at the end", func(*foreignSelf) []byte { return foreignRun(vic.id, altered(4, back)...) }},
		{"two exchanged", func(*foreignSelf) []byte {
			return foreignRun(vic.id, vic.said[0], vic.said[2], vic.said[1], vic.said[3], vic.said[4])
		}},
		{"one left out", func(*foreignSelf) []byte {
			return foreignRun(vic.id, vic.said[0], vic.said[1], vic.said[3], vic.said[4])
		}},
		{"one twice", func(*foreignSelf) []byte { return foreignRun(vic.id, vic.said[0], vic.said[0], vic.said[1]) }},
		{"one without its end", func(*foreignSelf) []byte { return foreignRun(vic.id, vic.said[0], vic.said[1][:len(vic.said[1])-10]) }},
		{"a frame without its end", func(*foreignSelf) []byte { b := foreignRun(vic.id, vic.said...); return b[:len(b)-10] }},
		{"all invented", func(*foreignSelf) []byte { return foreignRun(vic.id, mimic()...) }},
		{"one more invented", func(*foreignSelf) []byte { return foreignRun(vic.id, follow()...) }},
		{"its own under another's name", func(m *foreignSelf) []byte { return foreignRun(vic.id, own(m)...) }},
		{"no posts", func(*foreignSelf) []byte { return foreignRun(vic.id) }},
	} {
		mallory := newForeignSelf(t, "Mallory")
		bad := foreignDial(t, port, mallory).shakes(room)
		bad.sends(foreignHAVE, foreignHolds(vic))
		bad.wants("to be asked for them", foreignWANT, func(b []byte) bool { return bytes.HasPrefix(b, vic.id[:]) })
		bad.sends(foreignPOSTS, c.posts(mallory))
		bad.wantEnd(c.name, foreignHAVE, foreignPOSTS, foreignWANT)
	}
	if out := ann.out.String(); strings.Contains(out, "lied") || strings.Contains(out, "Vi") {
		t.Errorf("Ann shows what a relay made up:\n%s", out)
	}

	// What was not asked for, or can't be known by a third, is not believed
	// either, though it may have crossed a WANT and is no offence.
	odd := foreignDial(t, port, newForeignSelf(t, "Mallory")).shakes(room)
	odd.sends(foreignHAVE, foreignHolds())
	odd.sends(foreignPOSTS, foreignRun(vic.id, vic.said[:2]...))
	seen := binary.BigEndian.AppendUint64(append(friend.id[:], 5), uint64(time.Now().UnixMicro()))
	odd.sends(foreignSEEN, slices.Concat(seen, []byte("\x06Friend"), foreignAddress))
	odd.self.writes(foreignJoin, "")
	odd.sends(foreignPOSTS, foreignRun(odd.self.id, odd.self.said...))
	ann.sees(foreignPatience, ` \* Mallory@127.0.0.1:9\? joined$`)
	if out := ann.out.String(); strings.Contains(out, "true line") || strings.Contains(out, "Friend@127.0.0.1:9 lost") {
		t.Errorf("Ann shows what nobody asked for:\n%s", out)
	}

	honest := foreignDial(t, port, newForeignSelf(t, "Honest")).shakes(room)
	honest.sends(foreignHAVE, foreignHolds(vic))
	honest.wants("to be asked for them", foreignWANT, func(b []byte) bool { return bytes.HasPrefix(b, vic.id[:]) })
	honest.sends(foreignPOSTS, foreignRun(vic.id, vic.said...))
	for i := range 4 {
		ann.sees(foreignPatience, fmt.Sprintf(` Vic@127.0.0.1:9\?: true line %d$`, i))
	}
}
