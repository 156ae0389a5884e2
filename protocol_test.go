package main

// The wire format, byte by byte. The goldens were computed by another
// implementation, in another language; whoever changes one of them changes
// the protocol. Behind them stand the limits, the proofs, what a relay may not
// do to the posts of others, and a fuzzer for every parser.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ---- fixed authors

// A scribe writes posts as a node would, with a key that is the same in every
// run.
type scribe struct {
	key  ed25519.PrivateKey
	id   nodeID
	name string
	addr netip.AddrPort
	last post

	began int64 // of its drafts of lines, µs since 1970
}

const scribeTime = 1795359845_000000 // 2026-11-22 15:04:05 UTC, µs since 1970

func newScribe(number int, name string) *scribe {
	seed := bytes.Repeat([]byte{byte(number)}, ed25519.SeedSize)
	seed[0] ^= byte(number >> 8)
	seed[1] ^= byte(number >> 16)
	s := &scribe{key: ed25519.NewKeyFromSeed(seed), name: name, began: scribeTime}
	s.id = idOf(s.key)
	s.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 0, 7}), 7700)
	return s
}

// draft is what s would write next.
func (s *scribe) draft(kind byte, time int64, text string) post {
	return post{number: s.last.number + 1, time: time, prev: s.last.link, kind: kind, addr: s.addr, name: []byte(s.name), text: []byte(text)}
}

// writes makes the next post, as its receivers see it.
func (s *scribe) writes(kind byte, time int64, text string) post {
	s.last = noError(parsePost(s.id, sealPost(s.key, s.id, s.draft(kind, time, text)).sealed))
	return s.last
}

// scrawls makes the next post without signing it, the one costly step, where
// nobody looks at the signature.
func (s *scribe) scrawls(kind byte, time int64, text string) post {
	sealed := append(appendContent(nil, s.draft(kind, time, text)), make([]byte, signatureSize)...)
	s.last = noError(parsePost(s.id, sealed))
	return s.last
}

// chat makes a join and n-1 lines, a second apart.
func (s *scribe) chat(n int) (run []post) {
	for i := range n {
		kind, text := byte(kindLines), fmt.Sprintf("%s says %d", s.name, i)
		if i == 0 {
			kind, text = kindJoin, ""
		}
		run = append(run, s.writes(kind, scribeTime+int64(i)*1e6, text))
	}
	return run
}

// runOf lays posts out as the body of a POSTS frame.
func runOf(author nodeID, run []post) []byte { return appendRun(nil, author, run) }

func appendRun(b []byte, author nodeID, run []post) []byte {
	b = append(b, author[:]...)
	for i := range run {
		b = appendRunEntry(b, run[i].sealed)
	}
	return b
}

// framed wraps a body into a frame.
func framed(typ byte, body []byte) []byte {
	return endFrame(append(beginFrame(nil, typ), body...), 0)
}

// secretKey is the key of a private room; it takes its time to make.
var secretKey = sync.OnceValue(func() *roomKey { return newRoomKey("correct horse") })

// unhex reads a golden; spaces and line ends are for the reader's eye.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	must(t, err)
	return b
}

// ---- goldens

const (
	hexA     = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
	hexB     = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
	hexNil   = "0000000000000000000000000000000000000000000000000000000000000000"
	hexLink1 = "271480d0aa809977cbae77a6c26bdbdd206d30a3aada9318b1ebf52c664f28dc"
	hexPost1 = "0000000000000001 000660dec9ce2340" + hexNil + "01 1e14 04 c0a80007 03 54696d" +
		"f0271219b6fa1b25419a1243258a223f2c412ad63e91b6e0b37d79b7bdcba69f" +
		"768938d98baaa2f1b1e06b7481529af334657ae5eb9f6f5d9f337747d45a1204"
	hexPost2 = "0000000000000002 000660deca0b2c40" + hexLink1 + "02 1e14 04 c0a80007 03 54696d" +
		"48656c6c6f2c20416c65780a686f772061726520796f753f" + // Hello, Alex⏎how are you?
		"2d3fc99049720744f3bc580cda4e426326af4eab3760ab8b6e08c6136ac3ef6b" +
		"d1219a6f60f9b2a77b2d5683716b8237b100c2567ef1a5d1f61be941ae5cee03"
	hexBeacon       = hexA + "0000000000000102 1e14 06 54696d20c3bc" // and zeros up to 176 bytes
	hexBeaconSigned = "1d3a95c69e95187c844d1d48c9a294066daccf8d62c81aa32c5fba562eb040ad" +
		"aa978b903e03e8946e15b7fdf80de73897118f248cd49599c29872a9b1d2ce02"
)

func TestPostIsLaidOutAsTheTableSays(t *testing.T) {
	s := newScribe(1, "Tim")
	if got := hex.EncodeToString(s.id[:]); got != hexA {
		t.Fatalf("the ID is %s, want %s", got, hexA)
	}
	join := s.writes(kindJoin, scribeTime, "")
	lines := s.writes(kindLines, scribeTime+4e6, "Hello, Alex\nhow are you?")
	for _, c := range []struct {
		name, hex, digest, link string
		got                     post
	}{
		{"join", hexPost1, "6c1d957daff386e0644beb2e0045fdebc88ea0c6590cea86006b001786c541d5", hexLink1, join},
		{"lines", hexPost2, "7bb5f9d98b1ff15ed40cd31512dd14176057d3d4d287380b2cca632030b05212",
			"8b7158535d18daf567c3f4179ed90afaa6ec812ca7a4b730404a63c243fb1520", lines},
	} {
		want := unhex(t, c.hex)
		if !bytes.Equal(c.got.sealed, want) {
			t.Errorf("%s: sealed as\n%x, want\n%x", c.name, c.got.sealed, want)
		}
		p, err := parsePost(s.id, want)
		must(t, err)
		if !reflect.DeepEqual(p, c.got) {
			t.Errorf("%s: parsed as\n%+v, want\n%+v", c.name, p, c.got)
		}
		if d, l := hex.EncodeToString(p.digest[:]), hex.EncodeToString(p.link[:]); d != c.digest || l != c.link {
			t.Errorf("%s: digest %s and link %s, want %s and %s", c.name, d, l, c.digest, c.link)
		}
		if !p.verify(s.id) {
			t.Errorf("%s: its signature is not taken", c.name)
		}
	}
	if lines.number != 2 || lines.time != scribeTime+4e6 || lines.kind != kindLines || lines.addr != s.addr ||
		string(lines.name) != "Tim" || string(lines.text) != "Hello, Alex\nhow are you?" {
		t.Errorf("parsed as %+v", lines)
	}
}

// A frameList is what a frame of several entries holds, in their order.
type frameList struct {
	flags byte
	taken uint64
	ids   []nodeID
	spans []span
	wants []want
	addrs []netip.AddrPort
}

func listHave(body []byte) (x frameList, err error) {
	x.flags, x.taken, err = parseHave(body, func(id nodeID, s span, at netip.AddrPort) {
		x.ids, x.spans, x.addrs = append(x.ids, id), append(x.spans, s), append(x.addrs, at)
	})
	return x, err
}

func listWant(body []byte) (x frameList, err error) {
	err = parseWant(body, func(id nodeID, w want) { x.ids, x.wants = append(x.ids, id), append(x.wants, w) })
	return x, err
}

func (x frameList) have() []byte {
	b := beginHave(nil, x.taken)
	for i, id := range x.ids {
		b = appendHaveEntry(b, id, x.spans[i], x.addrs[i])
	}
	return endHave(b, 0, x.flags)[5:]
}

// has is the whole frame of a vector that says that one author's posts are here.
func has(author nodeID, s span) []byte {
	x := frameList{flags: haveComplete, ids: []nodeID{author}, spans: []span{s}, addrs: make([]netip.AddrPort, 1)}
	return framed(frameHave, x.have())
}

// hasNothing is that of an empty vector.
func hasNothing() []byte { return framed(frameHave, frameList{flags: haveComplete}.have()) }

func (x frameList) want() (b []byte) {
	for i, id := range x.ids {
		b = appendWantEntry(b, id, x.wants[i])
	}
	return b
}

// A goldenFrame is a frame in bytes, the same from its value, and the value
// from its bytes.
type goldenFrame struct {
	name, hex string
	encoded   []byte
	want      any
	parse     func(body []byte) (any, error)
	entry     int // size of an entry, where bodies of several sizes are good
	least     int // bytes of the shortest good body
}

func anyOf[T any](parse func([]byte) (T, error)) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return parse(b) }
}

func goldenFrames() []goldenFrame {
	a, b := newScribe(1, "Tim"), newScribe(2, "Ann")
	posts := []post{a.writes(kindJoin, scribeTime, ""), a.writes(kindLines, scribeTime+4e6, "Hello, Alex\nhow are you?")}
	v6 := netip.MustParseAddrPort("[fe80::1]:258")
	mac := newRoomKey("").proofOf("d", bytes.Repeat([]byte{0x11}, 32), a.id, b.id)
	hi := hello{epoch: 3, time: scribeTime, port: 7700, name: "Tim"}
	have := frameList{
		flags: haveComplete, taken: 9, ids: []nodeID{a.id, b.id, b.id},
		spans: []span{{1, 2, posts[1].link.mark()}, {5, 1 << 40, 7}, {}}, addrs: []netip.AddrPort{a.addr, v6, {}},
	}
	wants := frameList{ids: []nodeID{a.id, b.id, b.id}, wants: []want{{3, false}, {5, true}, {}}}
	message := direct{number: 9, time: scribeTime, text: []byte("just for you")}
	seen := sighting{author: b.id, kind: kindLost, time: scribeTime, name: []byte("Ann"), addr: a.addr}
	type run struct {
		author nodeID
		posts  []post
	}
	type part struct {
		piece []byte
		more  bool
	}
	return []goldenFrame{
		{"PROOF", "00000021 01 a360df0cb0f251fd98b02f372939ac7ad44f3f8596e2a87283bcc6bbf4859ecb", appendProof(nil, mac),
			mac, anyOf(func(b []byte) ([]byte, error) { return b, nil }), 1, 0},
		{"HELLO", "00000015 02 0001 00000003 000660dec9ce2340 1e14 03 54696d", appendHello(nil, hi),
			hi, anyOf(parseHello), 0, 20},
		{"HAVE", "000000cf 03 01 0000000000000009" +
			hexA + "0000000000000001 0000000000000002 8b7158535d18daf5 1e14 04 c0a80007" +
			hexB + "0000000000000005 0000010000000000 0000000000000007 0102 10 fe800000000000000000000000000001" +
			hexB + "0000000000000000 0000000000000000 0000000000000000 0000 00", framed(frameHave, have.have()),
			have, anyOf(listHave), 0, 9},
		{"heartbeat", "0000000a 03 00 0000000000000000", framed(frameHave, frameList{}.have()), frameList{}, anyOf(listHave), 0, 9},
		{"WANT", "0000007c 04" + hexA + "0000000000000003 00" + hexB + "0000000000000005 01" + hexB + "0000000000000000 00",
			framed(frameWant, wants.want()), wants, anyOf(listWant), 41, 0},
		{"POSTS", "00000139 05" + hexA + "0000007c" + hexPost1 + "00000094" + hexPost2, framed(framePosts, runOf(a.id, posts)),
			run{a.id, posts}, func(b []byte) (any, error) { id, p, err := parseRun(b); return run{id, p}, err }, 0, 160},
		{"DIRECT", "0000001d 06 0000000000000009 000660dec9ce2340 6a75737420666f7220796f75", appendDirect(nil, message),
			message, anyOf(parseDirect), 1, 16},
		{"SEEN", "00000035 07" + hexB + "05 000660dec9ce2340 03 416e6e 1e14 04 c0a80007", appendSeen(nil, seen),
			seen, anyOf(parseSeen), 0, 52},
		{"PART", "00000007 09 01 7069656365", appendPart(nil, []byte("piece"), true),
			part{[]byte("piece"), true}, anyOf(func(b []byte) (x part, err error) { x.piece, x.more, err = parsePart(b); return x, err }), 1, 1},
		{"GOT", "00000009 0a 0000000000000100", appendGot(nil, 256), int64(256), anyOf(parseGot), 0, 8},
		{"BYE", "00000002 08 02", appendBye(nil, byeDuplicate), byte(byeDuplicate), anyOf(parseBye), 0, 1},
	}
}

func TestFramesAreLaidOutAsTheTableSays(t *testing.T) {
	for _, c := range goldenFrames() {
		want := unhex(t, c.hex)
		if !bytes.Equal(c.encoded, want) {
			t.Errorf("%s: encoded as\n%x, want\n%x", c.name, c.encoded, want)
		}
		typ, body, err := readFrame(bytes.NewReader(want), maxFrame)
		if err != nil || typ != want[4] {
			t.Errorf("%s: read as type %d, %v", c.name, typ, err)
		}
		if got, err := c.parse(body); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: parsed as\n%+v, %v, want\n%+v", c.name, got, err, c.want)
		}
	}
}

func TestShortBodiesAreRefused(t *testing.T) {
	for _, c := range goldenFrames() {
		body := c.encoded[5:]
		for n := range body {
			good := n >= c.least && (c.entry > 0 && (n-c.least)%c.entry == 0 || c.least == 0 && n == 0)
			switch {
			case c.name == "HAVE":
				good = n == 9 || n == 9+56+7 || n == 9+56+7+56+19
			case c.name == "POSTS":
				good = n == 32+4+0x7c
			}
			if _, err := c.parse(body[:n:n]); (err == nil) != good {
				t.Errorf("%s: the first %d of %d bytes: %v; want an error: %v", c.name, n, len(body), err, !good)
			}
		}
	}
}

func TestTrailingBytesAreIgnored(t *testing.T) {
	for _, c := range goldenFrames() {
		if !slices.Contains([]string{"HELLO", "SEEN", "BYE", "GOT"}, c.name) {
			continue // others end in text, or in one more entry
		}
		body := append(slices.Clone(c.encoded[5:]), "of a later version"...)
		if got, err := c.parse(body); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s with more behind it: parsed as %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestRecordsAreLaidOutAsTheTableSays(t *testing.T) {
	s := newScribe(1, "Tim")
	p := s.writes(kindJoin, scribeTime, "")
	note := appendContent(nil, post{time: scribeTime + 9e6, kind: kindLost, addr: s.addr, name: []byte("Tim")})
	marker := appendContent(nil, post{time: scribeTime, kind: kindDirectFrom, addr: s.addr, name: []byte("Tim"), text: []byte("\xf5p2c \xf5")})
	for _, c := range []struct {
		name, hex string
		x         record
	}{
		{"post", "f5703263 0000009d 5277012b 01" + hexA + hexPost1, record{typ: recordPost, author: s.id, body: p.sealed}},
		{"note", "f5703263 0000005d 81d028e4 02" + hexA + "0000000000000000 000660deca577780" + hexNil + "05 1e14 04 c0a80007 03 54696d",
			record{typ: recordNote, author: s.id, body: note}},
		{"note that says a marker", "f5703263 00000065 fe92de4d 02" + hexA + "0000000000000000 000660dec9ce2340" + hexNil +
			"07 1e14 04 c0a80007 03 54696d f500703263 20 f500", record{typ: recordNote, author: s.id, body: marker}},
	} {
		want := unhex(t, c.hex)
		if got := appendRecord(nil, c.x); !bytes.Equal(got, want) {
			t.Errorf("%s: laid out as\n%x, want\n%x", c.name, got, want)
		}
		x, size, err := parseRecord(append(slices.Clone(want), "more"...))
		if err != nil || size != len(want) || !reflect.DeepEqual(x, c.x) {
			t.Errorf("%s: parsed as %+v of %d bytes, %v", c.name, x, size, err)
		}
		for n := range want {
			if _, _, err := parseRecord(want[:n]); err == nil {
				t.Errorf("%s: the first %d bytes are taken", c.name, n)
			}
		}
		for i := range want {
			bad := slices.Clone(want)
			bad[i] ^= 1 << (i % 8)
			if _, _, err := parseRecord(bad); err == nil {
				t.Errorf("%s: taken though byte %d was altered", c.name, i)
			}
		}
	}
	// The author knew no address, as a node without a network.
	nowhere := record{typ: recordPost, author: s.id, reached: new(netip.AddrPort), body: p.sealed}
	if x, _, err := parseRecord(appendRecord(nil, nowhere)); err != nil || x.reached != nil {
		t.Errorf("a record without an address is parsed as %+v, %v", x, err)
	}
}

// ---- limits

func TestOversizedFrameIsRefusedBeforeMemoryIsTaken(t *testing.T) {
	for _, c := range []struct {
		length uint32
		limit  int
		good   bool
	}{
		{0, maxFrame, false},
		{1, maxFrame, true},
		{maxFrame, maxFrame, true},
		{maxFrame + 1, maxFrame, false},
		{1 << 31, maxFrame, false},
		{1<<32 - 1, maxFrame, false},
		{maxStranger, maxStranger, true},
		{maxStranger + 1, maxStranger, false},
	} {
		for _, typ := range []byte{frameHave, framePosts, 200} {
			head := append(binary.BigEndian.AppendUint32(nil, c.length), typ)
			r := io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, maxFrame)))
			_, body, err := readFrame(r, c.limit)
			if (err == nil) != c.good {
				t.Errorf("frame of type %d, %d bytes, limit %d: %v", typ, c.length, c.limit, err)
			}
			if !c.good && cap(body) > 0 {
				t.Errorf("frame of type %d, %d bytes, limit %d: took %d bytes of memory", typ, c.length, c.limit, cap(body))
			}
			if c.good && len(body) != int(c.length)-1 {
				t.Errorf("frame of type %d, %d bytes: body of %d", typ, c.length, len(body))
			}
		}
	}
}

// A glutton is a reader that notes how much was asked of it at most, and has nothing.
type glutton int

func (g *glutton) Read(b []byte) (int, error) { *g = max(*g, glutton(len(b))); return 0, io.EOF }

// TestLargeBodyTakesItsMemoryWhenItComes: anybody can announce one.
func TestLargeBodyTakesItsMemoryWhenItComes(t *testing.T) {
	t.Parallel()
	for size, most := range map[int]glutton{largeFrame: largeFrame, largeFrame + 1: 16 << 10, maxFrame - 1: 16 << 10} {
		var g glutton
		if _, err := readBody(&g, size); err == nil || g != most {
			t.Errorf("for the beginning of a body of %d bytes there are %d, want %d (%v)", size, g, most, err)
		}
	}
}

// TestFieldsEndWithTheirBody: a length of 2 GiB is negative where an int has 32 bits.
func TestFieldsEndWithTheirBody(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]bool{-1: false, 0: true, 3: true, 4: false} {
		f := fields{b: []byte("abc")}
		if b := f.bytes(n); f.bad == want || want && len(b) != n || !want && b != nil {
			t.Errorf("%d bytes of 3 are %q, bad: %v", n, b, f.bad)
		}
	}
}

// TestSearchForAProofIsBounded: to verify a signature takes 50 to 100 µs.
func TestSearchForAProofIsBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ posts, signed, want, most int }{{3, 3, 3, 1}, {3, 1, 1, 3}, {3, 0, 0, 3}, {5000, 4001, 4001, maxUnsigned}, {5000, 4000, 0, maxUnsigned}} {
		looks := 0
		if got := proven(c.posts, func(i int) bool { looks++; return i+1 == c.signed }); got != c.want || looks > c.most {
			t.Errorf("of %d posts, of which number %d is signed, %d are proven, after %d looks; want %d, and %d at most", c.posts, c.signed, got, looks, c.want, c.most)
		}
	}
}

// TestTLSIsAsTheTableSays: version 1.3, curve X25519, and a certificate of each side.
func TestTLSIsAsTheTableSays(t *testing.T) {
	t.Parallel()
	mine := tlsConfig(newScribe(1, "").key)
	ecdsaKey := noError(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
	other := tls.Certificate{Certificate: [][]byte{noError(x509.CreateCertificate(rand.Reader, template, template, &ecdsaKey.PublicKey, ecdsaKey))}, PrivateKey: ecdsaKey}
	for name, c := range map[string]struct {
		most  uint16 // version
		certs []tls.Certificate
		good  bool // the handshake is done
		node  bool // the peer is a node
	}{
		"a node":                           {0, tlsConfig(newScribe(2, "").key).Certificates, true, true},
		"a client of an earlier version":   {tls.VersionTLS12, mine.Certificates, false, false},
		"a client without a certificate":   {0, nil, false, false},
		"a client whose key is of a curve": {0, []tls.Certificate{other}, true, false},
	} {
		near, far := net.Pipe()
		client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, MaxVersion: c.most, Certificates: c.certs})
		go func() {
			client.Handshake()
			io.Copy(io.Discard, client)
		}()
		server := tls.Server(far, mine)
		err := server.Handshake()
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		} else if c.good {
			state := server.ConnectionState()
			if _, _, err := identify(state); state.CurveID != tls.X25519 || (err == nil) != c.node {
				t.Errorf("%s: it has curve %v, and is identified: %v", name, state.CurveID, err)
			}
		}
		near.Close()
		far.Close()
	}
}

// TestProofIsOneFrame of that type, whose end may have grown.
func TestProofIsOneFrame(t *testing.T) {
	t.Parallel()
	room, a, b, exporter := newRoomKey(""), newScribe(1, "").id, newScribe(2, "").id, make([]byte, 32)
	mac := room.proofOf("d", exporter, a, b)
	for name, c := range map[string]struct {
		frame []byte
		good  bool
	}{
		"as it is":        {framed(frameProof, mac), true},
		"and more":        {framed(frameProof, append(bytes.Clone(mac), 1)), true},
		"of another type": {framed(frameHello, mac), false},
		"cut short":       {framed(frameProof, mac[:31]), false},
		"empty":           {framed(frameProof, nil), false},
	} {
		if _, err := room.prove(bytes.NewBuffer(c.frame), false, b, a, exporter); (err == nil) != c.good {
			t.Errorf("a proof %s: %v", name, err)
		}
	}
}

func TestPostsBeyondTheirLimitsAreRefused(t *testing.T) {
	t.Parallel()
	s := newScribe(1, "Tim")
	good := post{number: 1, time: scribeTime, kind: kindLines, addr: s.addr, name: []byte("Tim"), text: []byte("x")}
	for _, c := range []struct {
		name  string
		alter func(*post)
		good  bool
	}{
		{"as it should be", func(*post) {}, true},
		{"a kind of a later version", func(p *post) { p.kind = 77 }, true},
		{"no address", func(p *post) { p.addr = netip.AddrPort{} }, true},
		{"the last microsecond of the year 9999", func(p *post) { p.time = latestTime }, true},
		{"a microsecond later", func(p *post) { p.time = latestTime + 1 }, false},
		{"before 1970", func(p *post) { p.time = -1 }, false},
		{"number 0", func(p *post) { p.number = 0 }, false},
		{"a first join", func(p *post) { p.kind = kindJoin }, true},
		{"a second", func(p *post) { p.kind, p.number = kindJoin, 2 }, false},
		{"the kind of a note", func(p *post) { p.kind = kindDirectFrom }, false},
		{"the longest name", func(p *post) { p.name = make([]byte, maxNameBytes) }, true},
		{"a longer name", func(p *post) { p.name = make([]byte, maxNameBytes+1) }, false},
		{"the longest text", func(p *post) { p.text = make([]byte, maxText) }, true},
		{"a longer text", func(p *post) { p.text = make([]byte, maxText+1) }, false},
		{"the most empty lines", func(p *post) { p.text = bytes.Repeat([]byte{'\n'}, 58) }, true},
		{"one more", func(p *post) { p.text = bytes.Repeat([]byte{'\n'}, 59) }, false},
		{"as many in a text that is not shown", func(p *post) { p.kind, p.text = 77, bytes.Repeat([]byte{'\n'}, 59) }, true},
		{"the most lines of a letter under a long name", func(p *post) { p.name, p.text = make([]byte, maxNameBytes), []byte("x"+strings.Repeat("\nx", 27)) }, true},
		{"one more of them", func(p *post) { p.name, p.text = make([]byte, maxNameBytes), []byte("x"+strings.Repeat("\nx", 28)) }, false},
		{"many lines that are a little longer", func(p *post) { p.text = []byte(strings.Repeat("123\n", 40_000)) }, true},
	} {
		p := good
		c.alter(&p)
		if _, err := parsePost(s.id, sealPost(s.key, s.id, p).sealed); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := parseDirect(make([]byte, 16+maxText+1)); err == nil {
		t.Error("a direct message of more than the longest text is taken")
	}
	for _, n := range []int{maxNameBytes, maxNameBytes + 1} {
		hi, good := appendHello(nil, hello{name: strings.Repeat("x", n)})[5:], n <= maxNameBytes
		if _, err := parseHello(hi); (err == nil) != good {
			t.Errorf("HELLO of a name of %d bytes: %v", n, err)
		}
		seen := appendSeen(nil, sighting{kind: kindLost, name: make([]byte, n)})[5:]
		if _, err := parseSeen(seen); (err == nil) != good {
			t.Errorf("SEEN of a name of %d bytes: %v", n, err)
		}
		packet := secretKey().sealBeacon(s.key, beacon{name: strings.Repeat("x", n)})
		if _, err := secretKey().openBeacon(packet); (err == nil) != good {
			t.Errorf("a beacon of a name of %d bytes: %v", n, err)
		}
	}
	for _, n := range []int{1, 3, 5, 15, 17, 255} {
		f := fields{b: append([]byte{0, 1, byte(n)}, make([]byte, n)...)}
		if f.addr(); !f.bad {
			t.Errorf("an IP address of %d bytes is taken", n)
		}
	}
	for _, c := range []struct {
		span
		good bool
	}{{span{}, true}, {span{first: 3, last: 3}, true}, {span{first: 3, last: 2}, false}, {span{last: 2}, false}} {
		x := frameList{ids: []nodeID{s.id}, spans: []span{c.span}, addrs: []netip.AddrPort{netip.AddrPortFrom(s.addr.Addr(), 0)}}
		got, err := listHave(x.have())
		if (err == nil) != c.good {
			t.Errorf("HAVE of posts %d to %d: %v", c.first, c.last, err)
		}
		if c.good && got.addrs[0].IsValid() {
			t.Errorf("port 0 of HAVE is %v, want no address", got.addrs[0])
		}
	}
	for kind, good := range map[byte]bool{kindLeave: false, kindLost: true, kindBack: true, kindDirectFrom: false} {
		if _, err := parseSeen(appendSeen(nil, sighting{kind: kind, name: []byte("Tim")})[5:]); (err == nil) != good {
			t.Errorf("SEEN of kind %d: %v", kind, err)
		}
	}
	mapped := fields{b: append([]byte{0x1e, 0x14, 16}, netip.MustParseAddr("::ffff:192.168.0.7").AsSlice()...)}
	if got := mapped.addr(); got != s.addr {
		t.Errorf("an IPv4 address in the form of IPv6 is %v, want %v", got, s.addr)
	}
}

func TestLargestPostFitsIntoAFrameAndARecord(t *testing.T) {
	s := newScribe(1, strings.Repeat("\U0001F600", maxName))
	s.addr = netip.MustParseAddrPort("[2001:db8::1]:65535")
	p := s.writes(kindLines, scribeTime, strings.Repeat("\uFFFD", maxLine))
	frame := framed(framePosts, runOf(s.id, []post{p}))
	_, body, err := readFrame(bytes.NewReader(frame), maxFrame)
	must(t, err)
	_, _, err = parseRun(body)
	must(t, err)
	_, _, err = parseRecord(appendRecord(nil, record{typ: recordPost, author: s.id, body: p.sealed}))
	must(t, err)
}

// ---- proofs

func TestProofHoldsForOneRoleChannelAndPairOnly(t *testing.T) {
	t.Parallel()
	a, b, c := newScribe(1, "").id, newScribe(2, "").id, newScribe(3, "").id
	channel, other := bytes.Repeat([]byte{0x11}, 32), bytes.Repeat([]byte{0x12}, 32)
	open, secret := newRoomKey(""), secretKey()
	for _, g := range []struct {
		key       *roomKey
		role, hex string
	}{
		{open, "d", "a360df0cb0f251fd98b02f372939ac7ad44f3f8596e2a87283bcc6bbf4859ecb"},
		{open, "l", "4add8e6363758760296db52845f90ad1098a189dba02192cdeffda582a80e110"},
		{secret, "d", "7679339698fb62b2a296367aab6d6f059712542109d91b921f10ad24d8e6d1af"},
		{secret, "l", "de2539d27ed3972adb8b2e672baea72e200642979ffcb25280e8027a1752a874"},
	} {
		if got := hex.EncodeToString(g.key.proofOf(g.role, channel, a, b)); got != g.hex {
			t.Errorf("the proof of role %s is %s, want %s", g.role, got, g.hex)
		}
	}
	seen := map[string]string{}
	for name, mac := range map[string][]byte{
		"the dialing side's":         secret.proofOf("d", channel, a, b),
		"the listening side's":       secret.proofOf("l", channel, a, b),
		"that of another room":       open.proofOf("d", channel, a, b),
		"that of another channel":    secret.proofOf("d", other, a, b),
		"that of another dialer":     secret.proofOf("d", channel, c, b),
		"that of another listener":   secret.proofOf("d", channel, a, c),
		"that of the opposite":       secret.proofOf("d", channel, b, a),
		"the opposite listening one": secret.proofOf("l", channel, b, a),
	} {
		if before := seen[string(mac)]; before != "" {
			t.Errorf("%s proof is %s", name, before)
		}
		seen[string(mac)] = name
	}
}

// ---- beacons

func TestBeaconIsLaidOutAsTheTableSays(t *testing.T) {
	key, tim := newRoomKey(""), newScribe(1, "")
	want := beacon{node: tim.id, counter: 258, port: 7700, name: "Tim ü"}
	golden := slices.Concat(unhex(t, hexBeacon), make([]byte, 176-49), unhex(t, hexBeaconSigned))
	copy(want.plain[:], golden)
	packet := unhex(t, `0b0b0b0b0b0b0b0b0b0b0b0b a9be60d1b6121bfe366e0a726685bb23ff9b77607baddec2faa6f236a77e0c7ec1c4070c
		7eb893d504023303adbb60c6334e9943b9029a777f241caccfaf2b7cb1c4a7888195b5d2238f6e0aa8cdc5768498e5877117949edffb262b
		221dc838299c2cb7b755897e94330d678595fb30b903e679a6e701745a461837e3a4a181a1e2a4e23dc3f1f80b66d51eb9b9bff647c21cba
		25d860c187526e5f3a72e726d9fbfc153a9b1cfb42cabc9b471b14f666371bd3eb78aa2872ff0ec10143797e4a511ca0c2871c3194f671e4
		79cbf7a7b6e8d401f0519b11d23ca54a7e867b7f5a5eb90619ad3d0064fb7f4e0c04a135a88476c8cfcc90573829bad7557166fc`)
	if got, err := key.openBeacon(bytes.Clone(packet)); err != nil || got != want || !got.verify() {
		t.Errorf("opened as %+v, %v, signed %v, want %+v", got, err, got.verify(), want)
	}
	sealed := key.sealBeacon(tim.key, want)
	if len(sealed) != 268 {
		t.Errorf("a beacon has %d bytes, want 268", len(sealed))
	}
	open := sha256.Sum256([]byte("p2pchat open room"))
	block := noError(aes.NewCipher(noError(hkdf.Expand(sha256.New, open[:], "beacon", 32))))
	plain, err := noError(cipher.NewGCM(block)).Open(nil, sealed[:12], sealed[12:], []byte("p2pchat beacon 1"))
	must(t, err)
	if !bytes.Equal(plain, golden) {
		t.Errorf("sealed\n%x, want\n%x", plain, golden)
	}
	if again := key.sealBeacon(tim.key, want); bytes.Equal(again[:12], sealed[:12]) {
		t.Error("two beacons have one nonce")
	}
}

func TestBeaconThatItsNodeDidNotSignIsNotVerified(t *testing.T) {
	key, tim, eve := newRoomKey(""), newScribe(1, ""), newScribe(2, "")
	x := beacon{node: tim.id, counter: 1, port: 7700, name: "Tim"}
	if forged := noError(key.openBeacon(key.sealBeacon(eve.key, x))); forged.verify() {
		t.Error("a beacon that Eve signed counts as Tim's")
	}
	genuine := noError(key.openBeacon(key.sealBeacon(tim.key, x)))
	for i := range genuine.plain {
		changed := genuine
		changed.plain[i] ^= 1 << (i % 8)
		if !genuine.verify() || changed.verify() {
			t.Errorf("verified %v, and %v though byte %d was changed", genuine.verify(), changed.verify(), i)
		}
	}
}

// TestShortBeaconIsRefused, though a member sealed it.
func TestShortBeaconIsRefused(t *testing.T) {
	t.Parallel()
	room := newRoomKey("")
	for _, size := range []int{0, beaconSigned - 1, beaconPlain - 1, beaconPlain + 1} {
		if x, err := room.openBeacon(room.beacon.Seal(nil, nil, make([]byte, size), beaconLabel)); err == nil {
			t.Errorf("a beacon of %d bytes is taken as %+v", size, x)
		}
	}
}

func TestBeaconOfAnotherRoomOrAlteredIsRefused(t *testing.T) {
	t.Parallel()
	key := secretKey()
	tim := newScribe(1, "")
	packet := key.sealBeacon(tim.key, beacon{node: tim.id, counter: 1, port: 7700, name: "Tim"})
	if _, err := newRoomKey("").openBeacon(bytes.Clone(packet)); err == nil {
		t.Error("a beacon of another room is taken")
	}
	for i := range packet {
		bad := bytes.Clone(packet)
		bad[i] ^= 1 << (i % 8)
		if _, err := key.openBeacon(bad); err == nil {
			t.Errorf("taken though byte %d was altered", i)
		}
	}
	for _, n := range []int{0, 1, 12, 28, len(packet) - 1, len(packet) + 1} {
		if _, err := key.openBeacon(append(bytes.Clone(packet), 0)[:n]); err == nil {
			t.Errorf("a packet of %d bytes is taken", n)
		}
	}
	if bytes.Contains(packet, []byte("Tim")) {
		t.Error("the name can be read")
	}
}

// ---- the posts of others

// wouldTake says whether a node takes a run that somebody relays.
func wouldTake(body []byte) bool {
	author, run, err := parseRun(body)
	return err == nil && run[len(run)-1].verify(author)
}

func TestRunOfAnotherIsTakenOnlyAsItsAuthorWroteIt(t *testing.T) {
	vic, eve := newScribe(1, "Vic"), newScribe(2, "Eve")
	run := vic.chat(6)
	forged := func(i int, alter func(*post), key *scribe) []post {
		all := slices.Clone(run)
		p := all[i]
		alter(&p)
		p.sealed = sealPost(key.key, vic.id, p).sealed
		all[i] = noError(parsePost(vic.id, p.sealed))
		return all
	}
	rechained := func(from int) []post { // by somebody who has not the key
		all := slices.Clone(run)
		for i := from; i < len(all); i++ {
			p := all[i]
			if i == from {
				p.text = []byte("put into its mouth")
			} else {
				p.prev = all[i-1].link
			}
			all[i] = noError(parsePost(vic.id, sealPost(eve.key, vic.id, p).sealed))
		}
		return all
	}
	text := func(p *post) { p.text = []byte("put into its mouth") }
	back := func(p *post) { p.time -= 500_000 }
	for _, c := range []struct {
		name string
		run  []post
		good bool
	}{
		{"as it was written", run, true},
		{"its beginning", run[:3], true},
		{"its end", run[3:], true},
		{"one of it", run[2:3], true},
		{"altered in the middle", forged(2, text, eve), false},
		{"altered at the end", forged(5, text, eve), false},
		{"altered and chained anew", rechained(2), false},
		{"back-dated", forged(2, back, eve), false},
		{"back-dated at the end", forged(5, back, eve), false},
		{"two exchanged", slices.Concat(run[:2], []post{run[3], run[2]}, run[4:]), false},
		{"one left out", slices.Concat(run[:2], run[3:]), false},
		{"one twice", slices.Concat(run[:3], run[2:]), false},
		{"backwards", []post{run[1], run[0]}, false},
		{"one invented at the end", append(slices.Clip(run), eve.writes(kindLines, scribeTime+60e6, "invented")), false},
		{"by its author, but of another time line", forged(2, text, vic), false},
	} {
		if got := wouldTake(runOf(vic.id, c.run)); got != c.good {
			t.Errorf("a run %s: taken: %v, want %v", c.name, got, c.good)
		}
	}
	if wouldTake(runOf(eve.id, run)) {
		t.Error("a run is taken under another's name")
	}
	if wouldTake(vic.id[:]) {
		t.Error("a run of no posts is taken")
	}
}

func TestNoBitOfARunMayBeAltered(t *testing.T) {
	vic := newScribe(1, "Vic")
	body := runOf(vic.id, vic.chat(3))
	for i := range body {
		bad := bytes.Clone(body)
		bad[i] ^= 1 << (i % 8)
		if wouldTake(bad) {
			t.Errorf("taken though byte %d of %d was altered", i, len(body))
		}
	}
}

func TestRunCutShortIsTakenOnlyBetweenPosts(t *testing.T) {
	vic := newScribe(1, "Vic")
	run := vic.chat(3)
	body := runOf(vic.id, run)
	ends := []int{len(runOf(vic.id, run[:1])), len(runOf(vic.id, run[:2]))}
	for i := range body {
		if got, want := wouldTake(body[:i]), slices.Contains(ends, i); got != want {
			t.Errorf("the first %d of %d bytes are taken: %v, want %v", i, len(body), got, want)
		}
	}
}

func TestPostFollowsByNumberLinkAndTime(t *testing.T) {
	vic := newScribe(1, "Vic")
	run := vic.chat(3)
	a := &run[1]
	for _, c := range []struct {
		name  string
		alter func(*post)
		good  bool
	}{
		{"the next", func(*post) {}, true},
		{"a microsecond later", func(p *post) { p.time = a.time + 1 }, true},
		{"at the same time", func(p *post) { p.time = a.time }, false},
		{"earlier", func(p *post) { p.time = a.time - 1 }, false},
		{"with the same number", func(p *post) { p.number = a.number }, false},
		{"two further on", func(p *post) { p.number = a.number + 2 }, false},
		{"after another post", func(p *post) { p.prev = run[0].link }, false},
	} {
		b := run[2]
		c.alter(&b)
		if got := follows(a, &b); got != c.good {
			t.Errorf("a post %s follows: %v, want %v", c.name, got, c.good)
		}
	}
	if leave := vic.writes(kindLeave, scribeTime+9e6, ""); !follows(&run[2], &leave) {
		t.Error("a leave does not follow")
	} else if more := vic.writes(kindLines, scribeTime+10e6, ""); follows(&leave, &more) {
		t.Error("a post follows a leave")
	}
}

// ---- what a member may not say

// malformed says whether a stream of frames holds one that must end the
// connection.
func malformed(stream []byte) bool {
	r := bytes.NewReader(stream)
	for {
		typ, body, err := readFrame(r, maxFrame)
		if err != nil {
			return err != io.EOF && err != io.ErrUnexpectedEOF
		}
		err = nil
		switch typ {
		case frameHave:
			_, err = listHave(body)
		case frameWant:
			_, err = listWant(body)
		case framePosts:
			_, _, err = parseRun(body)
		case frameDirect:
			_, err = parseDirect(body)
		case frameSeen:
			_, err = parseSeen(body)
		case frameBye:
			return true
		}
		if err != nil {
			return true
		}
	}
}

func TestUnknownFramesAreSkipped(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		eve := newScribe(9, "Eve")
		s := l.visitor(ann, eve.key, "Eve", nil)
		run := eve.chat(2)
		s.says(framed(0, nil), hasNothing(), framed(11, []byte("later")),
			framed(255, make([]byte, maxFrame-1)), framed(framePosts, runOf(eve.id, run)))
		after(gatherPatience + time.Second)
		if s.isCutOff() {
			t.Error("a frame of unknown type ended the connection")
		}
		ann.wantLines(1, `^Eve@10.9.9.9: Eve says 1$`)
	})
}

func TestMalformedFrameEndsItsConnectionAlone(t *testing.T) {
	t.Parallel()
	vic := newScribe(1, "Vic")
	run := vic.chat(4)
	for name, stream := range map[string][]byte{
		"HAVE that ends in an entry":  framed(frameHave, make([]byte, 9+58)),
		"HAVE of post 0":              has(vic.id, span{0, 1, 0}),
		"HAVE from 3 to 2":            has(vic.id, span{3, 2, 0}),
		"HAVE with a strange IP":      framed(frameHave, append(make([]byte, 9+56), 0, 1, 5, 0, 0, 0, 0, 0)),
		"HAVE without a number":       framed(frameHave, make([]byte, 8)),
		"WANT that ends in an entry":  framed(frameWant, make([]byte, 40)),
		"POSTS without a post":        framed(framePosts, vic.id[:]),
		"POSTS that lack a post":      framed(framePosts, runOf(vic.id, []post{run[0], run[2]})),
		"DIRECT without a time":       framed(frameDirect, make([]byte, 15)),
		"SEEN of an unknown kind":     framed(frameSeen, make([]byte, 100)),
		"BYE without a reason":        framed(frameBye, nil),
		"a frame of no bytes":         make([]byte, 5),
		"a frame of 4 GB":             {0xff, 0xff, 0xff, 0xff, frameHave},
		"a frame of 1 byte too many":  {0, 0x10, 0, 1, 200},
		"a frame, then one of 4 GB":   append(hasNothing(), 0xff, 0xff, 0xff, 0xff, 1),
		"POSTS with an altered first": framed(framePosts, append(bytes.Clone(vic.id[:]), 0, 0, 0, 1, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				ann := l.enter("Ann", deaf())
				bob := l.enter("Bob", deaf(), told(ann))
				after(time.Second)
				s := l.visitor(ann, newScribe(9, "Eve").key, "Eve", nil)
				after(time.Second)
				if s.isCutOff() {
					t.Fatal("cut off before it said anything")
				}
				s.says(stream)
				after(time.Second)
				if !s.isCutOff() {
					t.Error("the connection goes on")
				}
				bob.says("still here")
				after(time.Second)
				ann.wantLines(1, `^Bob@10.0.0.2: still here$`)
			})
		})
	}
}

// TestWhatItsAuthorDidNotSignIsPassedOnToNobody: what comes on its author's own
// connection is shown at once, but others get it as signed or not at all.
func TestWhatItsAuthorDidNotSignIsPassedOnToNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		bob := l.enter("Bob", deaf(), told(ann))
		after(time.Second)
		eve := newScribe(9, "Eve")
		s := l.visitor(ann, eve.key, "Eve", nil)
		s.says(hasNothing())
		run := eve.chat(3)
		s.says(framed(framePosts, runOf(eve.id, run[:2])))
		run[2].sealed[len(run[2].sealed)-1] ^= 1
		s.says(framed(framePosts, runOf(eve.id, run[2:])))
		after(10 * time.Second)
		bob.wantLines(0, `Eve says 2$`)
		for _, g := range []*guest{ann, bob} {
			if err := g.ctx.Err(); err != nil {
				t.Errorf("%s ended: %v", g.name, err)
			}
		}
		bob.says("still here")
		after(time.Second)
		ann.wantLines(1, `^Bob@10.0.0.2: still here$`)
	})
}

// TestRelayThatLeavesOutAPostHidesNothing: what it says to have and doesn't
// send, between two frames, comes from others.
func TestRelayThatLeavesOutAPostHidesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		vic := newScribe(1, "Vic")
		run := vic.chat(4)
		have := has(vic.id, span{1, 4, run[3].link.mark()})
		bad := l.visitor(ann, newScribe(9, "Eve").key, "Eve", nil)
		bad.says(have)
		after(time.Second)
		bad.says(framed(framePosts, runOf(vic.id, run[:2])), framed(framePosts, runOf(vic.id, run[3:])))
		after(5 * time.Second)
		honest := l.visitor(ann, newScribe(10, "Bob").key, "Bob", nil)
		honest.says(have)
		after(5 * time.Second)
		honest.says(framed(framePosts, runOf(vic.id, run)))
		after(10 * time.Second)
		for i := 1; i < 4; i++ {
			ann.wantLines(1, fmt.Sprintf(`^Vic@192.168.0.7\?: Vic says %d$`, i))
		}
	})
}

// ---- fuzzers

// again fails if what is parsed from the fuzzer's bytes is not parsed from its
// own encoding as well.
func again[T any](t *testing.T, b []byte, parse func([]byte) (T, error), encode func(T) []byte) {
	t.Helper()
	x, err := parse(b)
	if err != nil {
		return
	}
	encoded := encode(x)
	if y, err := parse(encoded); err != nil || !reflect.DeepEqual(x, y) {
		t.Errorf("%+v\nencoded as %x, is parsed as\n%+v, %v", x, encoded, y, err)
	}
}

func FuzzReadFrame(f *testing.F) {
	var all []byte
	for _, c := range goldenFrames() {
		f.Add(c.encoded)
		all = append(all, c.encoded...)
	}
	f.Add(all)
	f.Add([]byte{0, 0x10, 0, 1, 3})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		for {
			at := len(stream) - r.Len()
			typ, body, err := readFrame(r, maxFrame)
			if cap(body) > maxFrame {
				t.Fatalf("took %d bytes of memory for a frame", cap(body))
			}
			if err != nil {
				return
			}
			if end := len(stream) - r.Len(); !bytes.Equal(framed(typ, body), stream[at:end]) {
				t.Fatalf("frame of type %d, body %x, was read from %x", typ, body, stream[at:end])
			}
		}
	})
}

func FuzzOpenBeacon(f *testing.F) {
	key, eve := newRoomKey(""), newScribe(3, "Eve")
	f.Add(noError(hex.DecodeString(strings.ReplaceAll(hexBeacon, " ", ""))))
	f.Add(append(bytes.Repeat([]byte{7}, 42), 134))
	f.Fuzz(func(t *testing.T, plain []byte) {
		key.openBeacon(bytes.Clone(plain)) // as garbage
		plain = append(plain, make([]byte, beaconPlain)...)[:beaconPlain]
		packet := key.beacon.Seal(nil, nil, plain, beaconLabel) // as from a member of the room
		again(t, packet, func(packet []byte) (beacon, error) {
			x, err := key.openBeacon(packet)
			x.plain = [beaconPlain]byte{} // the zeros behind a name may hold anything
			return x, err
		}, func(x beacon) []byte { return key.sealBeacon(eve.key, x) })
	})
}

// FuzzFrame gives a random body to the parser of its type.
func FuzzFrame(f *testing.F) {
	s := newScribe(3, "Eve")
	run := s.chat(5)
	for _, c := range goldenFrames() {
		f.Add(c.encoded[4], c.encoded[5:])
		f.Add(c.encoded[4], c.encoded[5:len(c.encoded)-1])
	}
	f.Add(byte(framePosts), runOf(s.id, run))
	f.Add(byte(framePosts), runOf(s.id, run[1:2]))
	f.Add(byte(framePosts), runOf(s.id, []post{run[0], run[2]}))
	f.Fuzz(func(t *testing.T, typ byte, body []byte) {
		switch typ % (frameBye + 1) {
		case frameHello:
			again(t, body, parseHello, bodyBy(appendHello))
		case frameHave:
			if x, _ := listHave(body); len(x.ids) > len(body)/59 {
				t.Errorf("%d entries of %d bytes", len(x.ids), len(body))
			}
			again(t, body, listHave, frameList.have)
		case frameWant:
			again(t, body, listWant, frameList.want)
		case framePosts:
			checkRun(t, body, s.id, run)
		case frameDirect:
			again(t, body, parseDirect, bodyBy(appendDirect))
		case frameSeen:
			again(t, body, parseSeen, bodyBy(appendSeen))
		case frameBye:
			again(t, body, parseBye, bodyBy(appendBye))
		}
	})
}

// bodyBy makes the body of a frame by what appends all of it.
func bodyBy[T any](appendFrame func([]byte, T) []byte) func(T) []byte {
	return func(x T) []byte { return appendFrame(nil, x)[5:] }
}

// checkRun tells of a run that is taken from body though one post does not
// follow the other, or though it proves what its author did not write.
func checkRun(t *testing.T, body []byte, writer nodeID, wrote []post) {
	author, got, err := parseRun(body)
	if err != nil {
		return
	}
	if again := runOf(author, got); !bytes.Equal(again, body) {
		t.Fatalf("%x is laid out anew as %x", body, again)
	}
	proven := author == writer && got[len(got)-1].verify(author)
	for i := range got {
		if i > 0 && !follows(&got[i-1], &got[i]) {
			t.Fatalf("post %d of the run does not follow", i)
		}
		if proven && !slices.ContainsFunc(wrote, func(p post) bool { return p.link == got[i].link }) {
			t.Fatalf("a post that its author did not write is proven: %x", got[i].sealed)
		}
	}
}

// FuzzPost takes random bytes for a post, for a record, and for what stands
// in a record.
func FuzzPost(f *testing.F) {
	s := newScribe(1, "Tim")
	for _, p := range s.chat(3) {
		f.Add(p.sealed)
		f.Add(appendRecord(nil, record{typ: recordPost, author: s.id, body: p.sealed}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkPost(t, s, b)
		if x, size, err := parseRecord(b); err == nil {
			if size > len(b) || len(x.body) > size {
				t.Errorf("a record of %d bytes, with a body of %d, was read from %d", size, len(x.body), len(b))
			}
			checkRecord(t, x)
		}
		checkRecord(t, record{typ: recordPost, author: s.id, body: b[:min(len(b), maxFrame/3)]})
	})
}

func checkPost(t *testing.T, s *scribe, sealed []byte) {
	p, err := parsePost(s.id, sealed)
	if err != nil {
		return
	}
	if !bytes.Equal(p.sealed, sealed) || len(p.text) > maxText || len(p.name) > maxNameBytes {
		t.Fatalf("parsed as %+v", p)
	}
	q := noError(parsePost(s.id, sealPost(s.key, s.id, p).sealed)) // as if its author had written it
	if q.digest != p.digest && len(appendContent(nil, p)) == len(sealed)-signatureSize {
		t.Errorf("%x is laid out anew as %x", sealed, q.sealed)
	}
	p.sealed, p.digest, p.link = q.sealed, q.digest, q.link
	if !reflect.DeepEqual(p, q) || !q.verify(s.id) {
		t.Errorf("%+v is parsed as %+v", p, q)
	}
}

func checkRecord(t *testing.T, x record) {
	laid := appendRecord(nil, x)
	y, _, err := parseRecord(laid)
	if err != nil || x.typ != y.typ || x.author != y.author || !bytes.Equal(x.body, y.body) {
		t.Errorf("%+v is parsed as %+v, %v", x, y, err)
	}
	if bytes.LastIndex(laid, recordMarker) > 8 {
		t.Errorf("a marker stands within the record %x", laid)
	}
}

// FuzzConnection says random frames on a connection that was made in order.
// The first byte of each is its type, the next two the length of its body.
func FuzzConnection(f *testing.F) {
	eve, vic := newScribe(9, "Eve"), newScribe(1, "Vic")
	own, others := eve.chat(4), vic.chat(4)
	pack := func(frames ...[]byte) (b []byte) {
		for _, x := range frames {
			b = append(binary.BigEndian.AppendUint16(append(b, x[4]), uint16(len(x)-5)), x[5:]...)
		}
		return b
	}
	have := has(vic.id, span{1, 4, others[3].link.mark()})
	f.Add(pack(have, framed(framePosts, runOf(eve.id, own)), framed(framePosts, runOf(vic.id, others))))
	f.Add(pack(have, framed(framePosts, runOf(eve.id, own[2:])), framed(framePosts, runOf(eve.id, own[:2]))))
	f.Add(pack(have, framed(frameWant, appendWantEntry(nil, vic.id, want{from: 1})), framed(framePosts, runOf(vic.id, []post{others[0], others[2]}))))
	for _, c := range goldenFrames() {
		f.Add(pack(have, c.encoded))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var stream []byte
		for len(script) > 3 {
			n := min(int(binary.BigEndian.Uint16(script[1:])), len(script)-3)
			stream = append(stream, framed(script[0]%13, script[3:3+n])...)
			script = script[3+n:]
		}
		stream = append(stream, script...) // a frame that never ends
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			bob := l.enter("Bob", deaf(), told(ann))
			after(time.Second)
			s := l.visitor(ann, eve.key, "Eve", nil)
			s.says(stream)
			after(2 * time.Second)
			if !s.isCutOff() && malformed(stream) {
				t.Errorf("a malformed frame does not end its connection: %x", stream)
			}
			bob.says("still here")
			after(10 * time.Second)
			ann.wantLines(1, `^Bob@10.0.0.2: still here$`)
			for _, s := range ann.screen() {
				if bad := unclean(s); bad != "" {
					t.Errorf("the line %q holds %s", s, bad)
				}
			}
		})
	})
}

// ---- what is shown

var dirtyTexts = []string{
	"", "plain", "a\x00b\x1b[2J\x7f\t\r\n", "\x1b]52;c;aGk=\x07", "\u202ertl\u2066\u2069", "\u2028\u2029\u0085",
	"\xff\xfe\xc3", "e" + strings.Repeat("\u0301", 40), "\u200bzero\u200cwidth\ufeff", "\u00ad\u034f\u115f\u3164",
	"\U0001F468\u200D\U0001F469\u200D\U0001F467", "می\u200cخواهم", "क्\u200dष", "C++\u200f זה\u061c", "\u064b\u200cا",
	"\U0001F3F4\U000E0067\U000E0062\U000E007F", "\U000E0041", "a\u200db",
	"\U0001F468\u200d", "\U0001F468\u200d\xff", "\u200d\U0001F468", "@:/*()>", "  two  spaces ", "Tim\u00a0B",
	"2026-11-22 15:04:05 * Tim@192.168.0.7 joined", strings.Repeat("x", 200),
}

func TestNamesThatLookAlike(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b  string
		alike bool
	}{
		{"Tim", "tim", true},
		{"Tim", "TIM", true},
		{"Tim", "Tom", false},
		{"Tim", "Tim B", false},
		{"Jos\u00e9", "Jose\u0301", true},
		{"Jos\u00c9", "jose\u0301", true},
		{"Jos\u00e9", "Jose", false},
		{"Jose\u0301", "Jose", false},
		{"Jos\u00e9", "Jos\u00e8", false},  // two accents
		{"Jose\u0301", "Jos\u0435", false}, // a Cyrillic letter that has no accent
		{"\u1ec7", "e\u0323\u0302", true},  // two accents, in three ways
		{"\u1ec7", "\u1eb9\u0302", true},
		{"\u1eb9\u0302", "\u00ea\u0323", true},
		{"\u03ac", "\u03b1\u0301", true},
		{"\u1fb3", "\u03b1\u0345", true}, // a mark that has a capital
		{"\u0439", "\u0418\u0306", true},
		{"\u03c3", "\u03c2", true}, // sigma within a word and at its end
		{"Stra\u00dfe", "STRASSE", true},
		{"STRA\u1e9eE", "Strasse", true},
		{"\u0130pek", "I\u0307pek", true}, // the dot of the Turkish capital
		{"\u0130pek", "i\u0307pek", true},
		{"\u0130pek", "ipek", true},
		{"\u0130pek", "\u0131PEK", true},
		{"\uac00\uac01", "\u1100\u1161\u1100\u1161\u11a8", true}, // Hangul
		{"\uac00", "\uac01", false},
		{"\u304c", "\u304b\u3099", true}, // Kana with a voiced mark
		{"\u304c", "\u304d", false},
		{"\u0622", "\u0627\u0653", true}, // Arabic alef with maddah
		{"\u0622", "\u0627", false},
		{"\ufb31", "\u05d1\u05bc", true}, // Hebrew bet with dagesh
		{"\u05e9\u05c1\u05bc", "\u05e9\u05bc\u05c1", true},
		{"\u0906", "\u0905\u093e", true}, // Devanagari aa
		{"\u0958", "\u0915\u093c", true}, // and qa
		{"\u0930\u093e\u092e", "\u0939\u092e", false},
		{"\u0915\u093c", "\u0916\u093c", false},       // two letters with one mark
		{"\u0995\u09cb", "\u0995\u09c7\u09be", true},  // Bengali o
		{"\u0e1e\u0e35", "\u0e1e\u0e35\u0e48", false}, // a tone of Thai
		{"\u8c48", "\u8c49", false},
		{"Anna Lena", "anna\u00a0 \u2003Lena", true},
		{"Anna Lena", "AnnaLena", false},
		{"Tim", "T\u200bi\u00adm", true},
		{"Tim", "\uff34\uff49\uff4d", true}, // ASCII of double width
		{"\u0915\u093f", "\u0915", false},   // a vowel sign of Devanagari is no accent
		{"\u0915\u093f", "\u0915\u0940", false},
		{"علی\u200cرضا", "علیرضا", true},
		{"", "", true},
		{"x", "", false},
	} {
		for _, ab := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if got := isAlike(ab[0], ab[1]); got != c.alike {
				t.Errorf("%+q and %+q are alike: %v", ab[0], ab[1], got)
			}
		}
	}
}

func TestPlainIsPrintableASCII(t *testing.T) {
	t.Parallel()
	for size := range 20 {
		for at := range size {
			for c := range 256 {
				text := bytes.Repeat([]byte{'~'}, size)
				text[at] = byte(c)
				if want := c >= ' ' && c <= '~'; isPlain(text) != want {
					t.Fatalf("byte %#x at %d of %d: plain %v, want %v", c, at, size, !want, want)
				}
			}
		}
	}
}

func TestNamesThatNobodyMayBear(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		good bool
	}{
		{"Tim", true}, {"Tim B", true}, {"Jos\u00e9", true}, {"\u05d1\u05bc", true}, {"at home", true}, {strings.Repeat("\u00e9", maxName), true},
		{"", false}, {strings.Repeat("x", maxName+1), false}, {"Tim@home", false}, {" Tim", false}, {"Tim ", false}, {"Tim  B", false},
		{"Tim\u00a0B", false}, {"Tim\tB", false}, {"Tim\nB", false}, {"T\u200bim", false}, {"\u3164", false}, {"\xff", false},
		{"at 10.9.0.7", false}, {"at fe80::1", false}, {"Jose\u0301", false},
	} {
		if err := validOwnName(c.name); (err == nil) != c.good {
			t.Errorf("%+q: %v; want an error: %v", c.name, err, !c.good)
		}
	}
}

// FuzzClean: what is shown of a text, or of a name, holds nothing that a
// screen obeys or hides, and cleaning it again alters nothing.
func FuzzClean(f *testing.F) {
	for _, s := range dirtyTexts {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := appendClean([]byte("kept: "), text)
		clean, ok := bytes.CutPrefix(got, []byte("kept: "))
		if !ok {
			t.Fatalf("%q is appended as %q", text, got)
		}
		if bad := unclean(string(clean)); bad != "" {
			t.Errorf("%q is cleaned to %q, which holds %s", text, clean, bad)
		}
		if twice := appendClean(nil, clean); !bytes.Equal(twice, clean) {
			t.Errorf("%q is cleaned to %q, and that to %q", text, clean, twice)
		}
		if len(clean) > 12*len(text) {
			t.Errorf("%d bytes are cleaned to %d", len(text), len(clean))
		}
		name := cleanName(text)
		if err := validName(name); err != nil || len(name) > maxNameBytes {
			t.Errorf("as a name %q is shown as %q, %d bytes: %v", text, name, len(name), err)
		}
		if bad := unclean(name); bad != "" {
			t.Errorf("as a name %q is shown as %q, which holds %s", text, name, bad)
		}
		if strings.ContainsAny(name, "\u200e\u200f\u061c") {
			t.Errorf("as a name %q is shown as %q, which holds a mark of direction", text, name)
		}
		if twice := cleanName([]byte(name)); twice != name {
			t.Errorf("as a name %q is shown as %q, and that as %q", text, name, twice)
		}
		if validName(string(text)) == nil && name != string(text) {
			t.Errorf("%q is a name, but shown as %q", text, name)
		}
	})
}

func TestTextOfEveryScriptStaysReadable(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"Persian":               "نمی\u200cخواهم و خانه\u200cها",
		"Persian, behind marks": "کاملاً\u200cها",
		"Hindi":                 "क्\u200dष और क्\u200cष",
		"Sinhala":               "ශ්\u200dරී ලංකා",
		"Malayalam":             "അവന്\u200d",
		"Mongolian":             "ᠮᠣᠩ\u200dᠭᠣᠯ",
		"Hebrew":                "C++\u200f היא שפה\u200e (1)",
		"Arabic":                "\u061c٣-٤ صباحا",
		"Arabic, final form":    "\ufe8e\u200f",
		"Hebrew, ligature":      "\ufb4f\u200f",
		"Phoenician":            "\U00010900\u200f",
		"Adlam":                 "\U0001E900\u200f",
		"emoji":                 "\U0001F468\u200d\U0001F469",
		"emoji in colour":       "\u2764\ufe0f\u200d\U0001F525",
		"emoji with a skin":     "\U0001F469\U0001F3FD\u200d\U0001F680",
		"flag of Scotland":      "\U0001F3F4\U000E0067\U000E0062\U000E0073\U000E0063\U000E0074\U000E007F",
		"tab":                   "a\tb é",
	} {
		if got := string(appendClean(nil, []byte(s))); got != s {
			t.Errorf("%s: %q is shown as %q", name, s, got)
		}
	}
	for name, s := range map[string]string{
		"Latin": "x\u200cy", "behind an accent": "e\u0301\u200dx", "Greek": "α\u200cβ", "Cyrillic": "а\u200dб", "Han": "日\u200c本",
		"kana": "か\u200dな", "Katakana with its long sound": "カー\u200dナ", "Hangul": "한\u200c글", "digits": "1\u200c2", "digits of Hindi": "१\u200c२",
		"at the beginning": "\u200cمی", "a filler of Hangul": "a\u3164b",
		"behind a space": "می \u200cخواهم", "direction in Latin": "abc\u200f", "direction alone": "\u200e\u200f\u061c", "override in Hebrew": "\u202eאב",
		"isolate in Arabic": "\u2067مي\u2069", "many marks with joiners between": "क" + strings.Repeat("्\u200c", 20),
		"many marks of direction": "אב" + strings.Repeat("\u200f", 20),
	} {
		got := string(appendClean(nil, []byte(s)))
		if !strings.Contains(got, "<U+") || unclean(got) != "" {
			t.Errorf("%s: %q is shown as %q", name, s, got)
		}
	}
	if got := string(appendClean(nil, []byte("می\u200c\u200cخواهم"))); got != "می\u200c<U+200C>خواهم" {
		t.Errorf("the second joiner is shown as %q", got)
	}
	if got := string(appendClean(nil, []byte("é\x00\x1b\x7f\xff\ufffd"))); got != "é␀␛␡\ufffd\ufffd" {
		t.Errorf("controls and what is no text are shown as %q", got)
	}
	if got := cleanName([]byte("דוד\u200f")); got != "דוד<U+200F_" {
		t.Errorf("a name with a mark of direction is shown as %q", got)
	}
}

// TestJoinerOfEmojiStandsBetweenTwo: behind one it can't be seen, and nobody
// would tell two names apart that look alike.
func TestJoinerOfEmojiStandsBetweenTwo(t *testing.T) {
	man := "\U0001F468"
	family := man + "\u200d" + man
	if got := string(appendClean(nil, []byte(family))); got != family || validName(family) != nil {
		t.Errorf("%q is cleaned to %q", family, got)
	}
	for _, s := range []string{man + "\u200d", "\u200d" + man, man + "\u200d\xff", man + "\u200da", "a\u200d" + man, man + "\u200d\u200d" + man} {
		if got := string(appendClean(nil, []byte(s))); !strings.Contains(got, "<U+200D>") {
			t.Errorf("%q is cleaned to %q, where a joiner joins nothing", s, got)
		}
		if validName(s) == nil {
			t.Errorf("%q is a name, though a joiner joins nothing", s)
		}
	}
	long := strings.Repeat("x", maxName-2) + family
	if got := cleanName([]byte(long)); validName(got) != nil {
		t.Errorf("%q is cut to %q: %v", long, got, validName(got))
	}
}
