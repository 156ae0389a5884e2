package main

// These tests show that strangers do no harm, and that nobody speaks for
// another: not a program that knows nothing of us, not one that knows the key
// of the room, not a member that lies.
//
// A stranger of the first two kinds is the test binary itself, started with
// P2PCHAT_ATTACK in a network namespace of the lab, where it attacks a room
// until it is told to stop. A member that lies is a visitor: a connection
// whose handshake is as it should be, and on which a test says what it likes.
// Every attack is bounded in number and in time, and goes to loopback or into
// a namespace of the test's own.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// ---- a member that says what it likes

// A visitor is a connection with a node, made in order by a member of its
// room.
type visitor struct {
	tls   *tls.Conn
	raw   net.Conn
	id    nodeID
	peer  nodeID
	ended chan struct{} // closed when the node has hung up; nil before it listens
}

// newKey returns a key whose ID is higher than that of a node that is low.
func newKey() ed25519.PrivateKey {
	for {
		if _, key, err := ed25519.GenerateKey(nil); idOf(noError(key, err))[0] > 0 {
			return key
		}
	}
}

func idOf(key ed25519.PrivateKey) nodeID { return nodeID(key.Public().(ed25519.PublicKey)) }

// visit makes a connection with the node at the other end of raw, which it
// closes when that fails.
func visit(raw net.Conn, room *roomKey, key ed25519.PrivateKey, hi hello) (v *visitor, err error) {
	if v, err = greet(raw, room, key); err != nil {
		return nil, err
	}
	if v.peer.less(v.id) {
		v.says(appendHello(nil, hi))
		err = v.awaits(frameHello)
	} else if err = v.awaits(frameHello); err == nil {
		v.says(appendHello(nil, hi))
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return v, nil
}

// greet does of a visit what comes before HELLO.
func greet(raw net.Conn, room *roomKey, key ed25519.PrivateKey) (v *visitor, err error) {
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	raw.SetDeadline(time.Now().Add(patience))
	v = &visitor{tls: tls.Client(raw, tlsConfig(key)), raw: raw, id: idOf(key)}
	if err := v.tls.Handshake(); err != nil {
		return nil, err
	}
	state := v.tls.ConnectionState()
	v.peer = nodeID(state.PeerCertificates[0].PublicKey.(ed25519.PublicKey))
	exporter := noError(state.ExportKeyingMaterial("EXPORTER-p2pchat", nil, 32))
	v.says(appendProof(nil, room.proofOf("d", exporter, v.id, v.peer)))
	return v, v.awaits(frameProof)
}

// helloOf is the HELLO of a visitor. Nobody listens at its port.
func helloOf(name string) hello { return hello{1, time.Now().UnixMicro(), 9, name} }

// says writes frames. That the node has hung up shows when something is read.
func (v *visitor) says(frames ...[]byte) { v.tls.Write(slices.Concat(frames...)) }

// awaits reads until a frame of that type comes.
func (v *visitor) awaits(want byte) error {
	return v.waitsFor(func(typ byte, _ []byte) bool { return typ == want })
}

// waitsFor reads until a frame comes that is good.
func (v *visitor) waitsFor(good func(typ byte, body []byte) bool) error {
	for {
		typ, body, err := readFrame(v.tls, maxFrame)
		if err != nil || good(typ, body) {
			return err
		}
		if typ == frameBye {
			return errors.New("turned away")
		}
	}
}

// dial connects with g from 10.9.9.9, where no node of the lab is.
func (l *lab) dial(g *guest) net.Conn { return l.dialFrom("10.9.9.9:7700", g) }

func (l *lab) dialFrom(addr string, g *guest) net.Conn {
	near, far := l.wire(&guest{addr: netip.MustParseAddrPort(addr)}, g)
	g.offer <- far
	return near
}

// visitor connects with g. It reads all that g says, and gives each frame to
// answer if that isn't nil.
func (l *lab) visitor(g *guest, key ed25519.PrivateKey, name string, answer func(v *visitor, typ byte, body []byte)) *visitor {
	l.t.Helper()
	return l.visitorWith(g, key, helloOf(name), answer)
}

// visitorWith is visitor with what its HELLO says.
func (l *lab) visitorWith(g *guest, key ed25519.PrivateKey, hi hello, answer func(v *visitor, typ byte, body []byte)) *visitor {
	l.t.Helper()
	return l.visitorOn(l.dial(g), key, hi, answer)
}

// visitorOn is visitorWith on a connection that was made.
func (l *lab) visitorOn(raw net.Conn, key ed25519.PrivateKey, hi hello, answer func(v *visitor, typ byte, body []byte)) *visitor {
	l.t.Helper()
	hi.port = 7700 // that of the room, which no line shows
	v, err := visit(raw, l.key, key, hi)
	must(l.t, err)
	v.listens(answer)
	return v
}

// listens has v read all that the node says until it hangs up, and gives each
// frame to answer if that isn't nil.
func (v *visitor) listens(answer func(v *visitor, typ byte, body []byte)) {
	v.ended = make(chan struct{})
	go func() { // ends with the connection, which the end of the node closes at the latest
		defer close(v.ended)
		defer v.raw.Close()
		for {
			typ, body, err := readFrame(v.tls, maxFrame)
			if err != nil {
				return
			}
			if answer != nil {
				answer(v, typ, body)
			}
			if typ == frameBye {
				return
			}
		}
	}()
}

// repeats says something at each interval, until the node hangs up.
func (v *visitor) repeats(every time.Duration, what func(i int) []byte) {
	go func() { // ends with the connection
		for i := 0; ; i++ {
			select {
			case <-time.After(every):
				v.says(what(i))
			case <-v.ended:
				return
			}
		}
	}()
}

// isCutOff says whether the node has hung up.
func (v *visitor) isCutOff() bool {
	synctest.Wait()
	select {
	case <-v.ended:
		return true
	default:
		return false
	}
}

// ---- strangers

// An attack is what a stranger does to the nodes at victims until ctx
// ends, counting how often.
type attack struct {
	name   string
	enough int // of what is counted
	unit   string
	run    func(ctx context.Context, count *atomic.Int64)
}

const (
	attackLAN      = "10.9.0."
	attackerHost   = 66 // the stranger's own address, and the first of several
	attackerHosts  = 4
	attackDeadline = 60 * time.Second // of an attack that nobody ends
	attackProgram  = "P2PCHAT_ATTACK"
	swallowed      = "invented nodes that swallow" // whoever dials them waits in vain
)

var victims = []string{attackLAN + "1:7700", attackLAN + "2:7700", attackLAN + "3:7700", attackLAN + "4:7700", attackLAN + "5:7700"}

var attacks = []attack{
	{"garbage streams", 10_000, "streams", garbageStreams},
	{"half-open connections", 2000, "connections", halfOpen},
	{"slow handshakes", 200, "handshakes", slowHandshakes},
	{"connects at once", 5000, "connects", connectsAtOnce},
	{"garbage beacons", 100_000, "packets, each to all", garbageBeacons},
	{"invented nodes", 100_000, "beacons, each to all", inventedNodes},
	{swallowed, 100_000, "beacons, each to all", inventedNodes},
	{"replayed beacons", 1000, "replays, each to all", replayedBeacons},
}

// The test binary is the stranger when it is told so.
func init() {
	name := os.Getenv(attackProgram)
	i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })
	if i < 0 {
		return
	}
	var d discovery
	d.look()
	if !strings.HasPrefix(d.ownAddr().String(), attackLAN) {
		fmt.Println("this is not the lab") // never attack a network that isn't ours
		os.Exit(1)
	}
	a := attacks[i]
	var count atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	go func() {
		for int(count.Load()) < a.enough {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println("enough")
	}()
	time.AfterFunc(attackDeadline, func() { os.Exit(1) })
	began := time.Now()
	a.run(ctx, &count)
	took := time.Since(began).Seconds()
	fmt.Printf("%d %s in %.1f s, %.0f a second\n", count.Load(), a.unit, took, float64(count.Load())/took)
	os.Exit(0)
}

// knock opens a TCP connection with the i-th victim, from an address of our own
// that changes with from.
func knock(i, from int) (net.Conn, error) {
	d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 9, 0, byte(attackerHost+from%attackerHosts))}}
	c, err := d.Dial("tcp4", victims[i%len(victims)])
	if err == nil {
		c.(*net.TCPConn).SetLinger(0) // ports must not run out on our side
	}
	return c, err
}

// untilStopped runs f on n goroutines, again and again.
func untilStopped(ctx context.Context, n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ; ctx.Err() == nil; i += n {
				f(i)
			}
		})
	}
	all.Wait()
}

// pauseFor waits for d or the end of the attack.
func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// heardBack waits until the node has hung up, or at most for d.
func heardBack(c net.Conn, d time.Duration) {
	c.SetReadDeadline(time.Now().Add(d))
	io.Copy(io.Discard, c)
}

func garbageStreams(ctx context.Context, count *atomic.Int64) {
	cfg := tlsConfig(newKey())
	noise := make([]byte, 4096)
	source := rand.NewChaCha8([32]byte{})
	source.Read(noise)
	inTLS := func(c net.Conn, b []byte) {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		t := tls.Client(c, cfg)
		if t.Handshake() == nil {
			t.Write(b)
			heardBack(t, 300*time.Millisecond)
		}
	}
	kinds := []func(net.Conn){
		func(c net.Conn) { c.Write(noise) },
		func(c net.Conn) {
			c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
			heardBack(c, 300*time.Millisecond)
		},
		func(c net.Conn) { c.Write(noise[:100]); heardBack(c, 300*time.Millisecond) },
		func(c net.Conn) { c.Write([]byte{0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff}) }, // a giant TLS record
		func(c net.Conn) { c.Write(framed(frameProof, noise[:32])) },
		func(c net.Conn) { inTLS(c, framed(frameProof, noise[:32])) },
		func(c net.Conn) { inTLS(c, []byte{0, 0, 1, 0, frameProof, 1, 2, 3}) }, // cut short by our end
		func(c net.Conn) { inTLS(c, append([]byte{0xff, 0xff, 0xff, 0xff, frameProof}, noise...)) },
		func(c net.Conn) { inTLS(c, noise) },
		func(net.Conn) {},
	}
	untilStopped(ctx, 128, func(i int) {
		c, err := knock(i, 0)
		if err != nil {
			pauseFor(ctx, 100*time.Millisecond)
			return
		}
		kinds[i/len(victims)%len(kinds)](c)
		c.Close()
		count.Add(1)
	})
}

func halfOpen(ctx context.Context, count *atomic.Int64) {
	untilStopped(ctx, 2000, func(i int) {
		c, err := knock(i, i)
		if err == nil {
			count.Add(1)
			end := context.AfterFunc(ctx, func() { c.Close() })
			io.Copy(io.Discard, c) // until the node gives up on us
			end()
			c.Close()
		}
		pauseFor(ctx, time.Second)
	})
}

// slowHandshakes takes its time, on half of the connections with TLS, on the
// others with the proof of the room key.
func slowHandshakes(ctx context.Context, count *atomic.Int64) {
	cfg := tlsConfig(newKey())
	near, far := net.Pipe()
	go tls.Client(near, cfg).Handshake()
	opening := make([]byte, 64<<10)
	opening = opening[:noError(far.Read(opening))]
	far.Close()
	drip := func(c io.Writer, b []byte, gap time.Duration) {
		for i := range b {
			if _, err := c.Write(b[i : i+1]); err != nil {
				return
			}
			pauseFor(ctx, gap)
		}
	}
	untilStopped(ctx, 200, func(i int) {
		c, err := knock(i, 0)
		if err == nil {
			count.Add(1)
			if i/len(victims)%2 == 0 {
				drip(c, opening, 50*time.Millisecond)
			} else if t := tls.Client(c, cfg); t.Handshake() == nil {
				drip(t, framed(frameProof, make([]byte, 32)), 200*time.Millisecond)
			}
			c.Close()
		}
		pauseFor(ctx, 50*time.Millisecond)
	})
}

func connectsAtOnce(ctx context.Context, count *atomic.Int64) {
	for ctx.Err() == nil {
		var all sync.WaitGroup
		for i := range lasting(5000, 1500) {
			all.Go(func() {
				if c, err := knock(int(i), int(i)/len(victims)); err == nil {
					count.Add(1)
					heardBack(c, 500*time.Millisecond)
					c.Close()
				}
			})
		}
		all.Wait()
	}
}

// broadcaster returns what sends a packet to the whole LAN.
func broadcaster(from int) func([]byte) {
	c := noError(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 9, 0, byte(attackerHost+from))}))
	to := netip.MustParseAddrPort(attackLAN + "255:7700")
	return func(b []byte) { c.WriteToUDPAddrPort(b, to) }
}

func garbageBeacons(ctx context.Context, count *atomic.Int64) {
	send := broadcaster(0)
	source := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 4096)
	source.Read(noise)
	for i := 0; ctx.Err() == nil; i++ {
		size := beaconSize // what is of another size is cheaper to refuse
		if i%8 == 0 {
			size = i % 1400
		}
		send(noise[i%2048 : i%2048+size])
		count.Add(1)
	}
}

// inventedNodes announces nodes that aren't there. It knows the key of the
// open room: everybody does.
func inventedNodes(ctx context.Context, count *atomic.Int64) {
	room := newRoomKey("")
	source := rand.NewChaCha8([32]byte{2})
	var send []func([]byte)
	for i := range attackerHosts {
		send = append(send, broadcaster(i))
	}
	for i := 0; ctx.Err() == nil; i++ {
		x := beacon{counter: uint64(i + 1), port: uint16(1 + i%5000), name: fmt.Sprintf("No\x1b[2J%d", i)}
		key := newKey()
		if x.node = idOf(key); i%4 == 0 { // and some that nobody signed
			source.Read(x.node[:])
		}
		send[i%len(send)](room.sealBeacon(key, x))
		count.Add(1)
	}
}

// replayedBeacons says again, from an address of its own, whatever beacons it
// hears, and waits at the port that they name, with a key of its own.
func replayedBeacons(ctx context.Context, count *atomic.Int64) {
	hear := noError(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 0), Port: 7700}))
	l := noError(net.Listen("tcp4", attackLAN+strconv.Itoa(attackerHost)+":7700"))
	cfg := tlsConfig(newKey())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends by the deadline
				c.SetDeadline(time.Now().Add(time.Second))
				t := tls.Server(c, cfg)
				t.Handshake()
				if typ, _, err := readFrame(t, maxFrame); err == nil {
					fmt.Printf("fooled somebody: a frame of type %d came\n", typ)
				}
				c.Close()
			}()
		}
	}()
	var mu sync.Mutex
	var heard [][]byte
	go func() {
		packet := make([]byte, 2048)
		for {
			n, from, err := hear.ReadFromUDPAddrPort(packet)
			if err != nil {
				return
			}
			if host := from.Addr().Unmap().As4()[3]; host < attackerHost || host >= attackerHost+attackerHosts {
				mu.Lock()
				heard = append(heard, bytes.Clone(packet[:n]))
				heard = heard[max(0, len(heard)-64):]
				mu.Unlock()
			}
		}
	}()
	send := broadcaster(0)
	for ctx.Err() == nil {
		mu.Lock()
		again := slices.Clone(heard)
		mu.Unlock()
		for _, b := range again {
			send(b)
			count.Add(1)
		}
		pauseFor(ctx, 2*time.Millisecond)
	}
}

// ---- strangers, and a room of five

func TestStrangersLeaveAChattingRoomWhole(t *testing.T) {
	t.Parallel()
	needLab(t)
	if testing.Short() {
		t.Skip("attacks for a while")
	}
	l := newLAN(t)
	var hosts []*host
	for i := range victims {
		hosts = append(hosts, l.host(fmt.Sprintf("%s%d/24", attackLAN, i+1)))
	}
	guests := l.host(attackLAN + "50/24")
	evil := l.host(fmt.Sprintf("%s%d/24", attackLAN, attackerHost))
	for i := 1; i < attackerHosts; i++ {
		evil.ip(fmt.Sprintf("addr add %s%d/24 dev eth0", attackLAN, attackerHost+i))
	}
	s := &siege{t: t, guests: guests, evil: evil, nodes: room(hosts, "Ann", "Bob", "Cid", "Dora", "Emil")}
	calm := s.chat(20)
	t.Logf("in calm: median latency %v of %d lines", median(calm), len(calm))
	s.memory = s.largest()
	for i := range attacks {
		s.withstand(&attacks[i])
	}
	for _, p := range s.nodes {
		for _, line := range p.out.lines() {
			if presenceRE.MatchString(line) && !strings.Contains(line, "* Guest") || strings.HasSuffix(line, " lost") {
				t.Errorf("%s shows %q", p.name, line)
			}
			if strings.Contains(line, fmt.Sprint(attackLAN, attackerHost)) {
				t.Errorf("%s shows the stranger: %q", p.name, line)
			}
		}
	}
	connected(slack(3*time.Second), 5*4, hosts...)
	sameHistory(slack(3*time.Second), s.nodes...)
}

// A siege is a room of five that chats, and is attacked.
type siege struct {
	t            testing.TB
	guests, evil *host
	nodes        []*proc
	said         int   // lines, by all
	memory       []int // MB, of each node in calm
}

// chat has the nodes say n lines in turn, and returns how long each took from
// one node's standard input to the next one's standard output.
func (s *siege) chat(n int) (took []time.Duration) {
	s.t.Helper()
	for range n {
		from, to := s.nodes[s.said%5], s.nodes[(s.said+1)%5]
		s.said++
		text := fmt.Sprintf("line %06d.", s.said)
		began := time.Now()
		from.say(text)
		to.seesCount(patience, 1, text)
		took = append(took, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	return took
}

func (s *siege) largest() (mb []int) {
	for _, p := range s.nodes {
		mb = append(mb, p.megabytes())
	}
	return mb
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Round(100 * time.Microsecond)
}

// withstand has the room chat, and a newcomer join, while a stranger attacks.
func (s *siege) withstand(a *attack) {
	t := s.t
	const (
		latency = 50 * time.Millisecond // at the median
		noise   = 5                     // how much slower a busy machine may be
		growth  = 50                    // MB
		handful = 5                     // lines
	)
	atLeast := lasting(2*time.Second, 500*time.Millisecond)
	var stderr []int
	for _, p := range s.nodes {
		stderr = append(stderr, len(p.err.lines()))
	}
	if a.name == swallowed {
		s.evil.drops("ip protocol tcp")
		defer s.evil.drops("")
	}
	stranger := start(t, a.name, s.evil.inside(self(t)), withEnv("P2PCHAT_RUN=", attackProgram+"="+a.name))
	began := time.Now()
	time.Sleep(200 * time.Millisecond) // it has begun
	name := "Guest " + strings.ReplaceAll(a.name, " ", "")
	entered := time.Now()
	guest := s.guests.node(name)
	joined := make(chan time.Duration, 1)
	go func() { // ends by patience
		met := regexp.MustCompile(` \* ` + name + `@\S+ joined\n`)
		for _, p := range s.nodes {
			p.out.waitFor(patience-time.Since(entered), met.Match)
		}
		five := regexp.MustCompile(` \* \w+@(` + regexp.QuoteMeta(attackLAN) + `[1-5]|fe80::\S+)\?? joined\n`) // IPv6 where the beacons of IPv4 are drowned
		guest.out.waitFor(patience-time.Since(entered), func(text []byte) bool { return len(five.FindAllIndex(text, 5)) == 5 })
		joined <- time.Since(entered)
	}()
	var took []time.Duration
	most, join := slices.Clone(s.memory), time.Duration(0)
	enough := func() bool { return slices.Contains(stranger.out.lines(), "enough") }
	for join == 0 || time.Since(began) < atLeast || !enough() && time.Since(began) < lasting(attackDeadline, 3*atLeast/2) {
		took = append(took, s.chat(5)...)
		for i, mb := range s.largest() {
			most[i] = max(most[i], mb)
		}
		select {
		case join = <-joined:
		default:
		}
	}
	stranger.closeInput()
	ends(stranger, patience, 0)
	done := stranger.out.lines()
	for i, line := range done {
		if line != "enough" && i < len(done)-1 {
			t.Errorf("%s: %s", a.name, line)
		}
	}
	guest.say("/exit")
	ends(guest, slack(3*time.Second), 0)
	for _, p := range s.nodes {
		p.seesCount(slack(3*time.Second), 1, ` \* `+name+`@\S+ left$`)
	}

	more, lines := 0, 0
	for i, p := range s.nodes {
		more = max(more, most[i]-s.memory[i])
		lines = max(lines, len(p.err.lines())-stderr[i])
	}
	t.Logf("%s: %s; median latency %v of %d lines; newcomer in after %v; %d MB more, %d lines on standard error at the most",
		a.name, done[len(done)-1], median(took), len(took), join.Round(time.Millisecond), more, lines)
	if m := median(took); m > slack(noise*latency) {
		t.Errorf("%s: the median latency is %v", a.name, m)
	}
	if join > max(noise*time.Second, slack(2*time.Second)) {
		t.Errorf("%s: the newcomer is in after %v", a.name, join)
	}
	if limit := growth * int(slack(1)); more > limit {
		t.Errorf("%s: a node holds %d MB more than in calm, limit %d", a.name, more, limit)
	}
	if lines > handful {
		t.Errorf("%s: a node writes %d lines to standard error, limit %d", a.name, lines, handful)
	}
}

// Invented nodes may take neither the dials nor the memory that a newcomer
// needs, whichever side it is that has to dial, and whether the host that they
// are said to be on refuses connections or swallows them.
func TestNewcomerIsFoundAmongInventedNodes(t *testing.T) {
	t.Parallel()
	for name, swallows := range map[string]bool{"of hosts that refuse": false, "of hosts that swallow": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				var holes []*guest // what is said to these is lost
				for i := range attackerHosts {
					h := l.enter(fmt.Sprint("Hole", i), deaf())
					h.crash()
					holes = append(holes, h)
				}
				reach := apartFrom()
				if swallows {
					reach = apartFrom(holes...)
				}
				var nodes []*guest
				for i := range 2 {
					nodes = append(nodes, l.enter(fmt.Sprint("N", i), reach))
				}
				after(3 * time.Second)
				ctx, stop := context.WithCancel(t.Context())
				var flood sync.WaitGroup
				flood.Go(func() { l.invent(ctx, holes) })
				time.Sleep(500 * time.Millisecond)
				for i := range 2 {
					nodes = append(nodes, l.enter(fmt.Sprint("Guest", i), reach))
				}
				time.Sleep(2 * time.Second)
				for _, g := range nodes {
					if n := g.peersNow(); n != 3 {
						t.Errorf("2 s after two came, %s is connected with %d nodes, want 3", g.name, n)
					}
				}
				stop()
				flood.Wait()
				for _, g := range nodes {
					g.wantLines(0, ` lost$|Nobody`)
				}
			})
		})
	}
}

// inventedBeacons are of nodes that nobody is, each signed as it should be.
// Under the race detector a second goes by until they are made.
var inventedBeacons = sync.OnceValue(func() (all []beacon) {
	room := newRoomKey("")
	for i := range uint64(5 * maxChecks) {
		key := newKey()
		packet := room.sealBeacon(key, beacon{node: idOf(key), counter: i + 1, port: 7700, name: "Nobody"})
		all = append(all, noError(room.openBeacon(packet)))
	}
	return all
})

// invent has all hear of new nodes, said to be where the holes are: more than
// they check.
func (l *lab) invent(ctx context.Context, holes []*guest) {
	for i, x := range inventedBeacons() {
		l.mu.Lock()
		nodes := slices.Clone(l.nodes)
		l.mu.Unlock()
		for _, g := range nodes {
			if !g.silent() {
				g.heard(x, holes[i%len(holes)].addr.Addr())
			}
		}
		if i > maxChecks && i%20 == 0 {
			time.Sleep(20 * time.Second * 2 / (3 * maxChecks))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// TestContactsAreBounded: somebody says that it is connected with more nodes
// than anybody keeps in mind.
// hearsForged has g hear a beacon that Eve made in the name of a node, with a
// counter that the node will never reach.
func (g *guest) hearsForged(eve ed25519.PrivateKey, named nodeID, from netip.AddrPort) {
	counter := math.MaxUint64 - uint64(time.Hour) + uint64(time.Now().UnixNano())%uint64(time.Hour) // grows
	g.hears(eve, beacon{node: named, counter: counter, port: from.Port(), name: "Eve"}, from.Addr())
}

// TestForgedBeaconsKeepNobodyApart: Eve has everybody hear of everybody that it
// were at a place of hers, before its own beacons are heard and ever after.
func TestForgedBeaconsKeepNobodyApart(t *testing.T) {
	t.Parallel()
	for name, swallows := range map[string]bool{"where nobody listens": false, "that swallows": true} {
		t.Run("a place "+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				eve, hole := newKey(), l.enter("Hole", deaf())
				hole.crash()
				reach := apartFrom()
				if swallows {
					reach = apartFrom(hole)
				}
				forge := func() {
					for _, g := range l.nodes[1:] {
						for _, named := range l.nodes[1:] {
							g.hearsForged(eve, named.id, hole.addr)
						}
					}
				}
				const nodes = 5
				for i := range nodes {
					g := l.enter(fmt.Sprint("N", i), reach, deaf())
					forge()
					g.mu.Lock()
					g.mute = false
					g.mu.Unlock()
				}
				for range 30 {
					after(100 * time.Millisecond)
					forge()
				}
				for _, g := range l.nodes[1:] {
					if n := g.peersNow(); n != nodes-1 {
						t.Errorf("%s is connected with %d nodes, want %d", g.name, n, nodes-1)
					}
				}
			})
		})
	}
}

// TestFrozenNodeIsLostThoughItsBeaconsAreForged: Cid's host takes what is sent
// to it, and says nothing any more.
func TestFrozenNodeIsLostThoughItsBeaconsAreForged(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, cid, eve := l.enter("Ann"), newScribe(1, "Cid"), newKey()
		at := l.visitor(ann, cid.key, "Cid", nil)
		at.says(hasNothing(), framed(framePosts, runOf(cid.id, cid.chat(1))))
		for range 80 {
			ann.hearsForged(eve, cid.id, netip.MustParseAddrPort("10.9.9.9:7700"))
			after(100 * time.Millisecond)
		}
		ann.wantLines(1, `^\* Cid@10.9.9.9 lost$`)
	})
}

// ---- another secret

// TestFrozenNodeIsLostThoughAMemberClaimsIt: somebody says twice a second that it
// is connected with a node of which nothing comes any more.
func TestFrozenNodeIsLostThoughAMemberClaimsIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob, cid := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
		for _, g := range []*guest{ann, bob} {
			v := l.visitor(g, newKey(), "Mallory", nil)
			v.says(hasNothing())
			v.repeats(500*time.Millisecond, func(i int) []byte {
				return claims(cid.id, span{1, 1, 0}, netip.AddrPortFrom(cid.addr.Addr(), uint16(7700+i%2)))
			})
		}
		after(10 * time.Second)
		l.split([]*guest{ann, bob}, []*guest{cid})
		after(8 * time.Second)
		for _, g := range []*guest{ann, bob} {
			g.wantLines(1, `^\* Cid@10.0.0.3 lost$`)
			g.wantLines(0, `is back$`)
		}
		after(time.Minute)
		for _, g := range []*guest{ann, bob} {
			g.wantLines(1, `^\* Cid@10.0.0.3 lost$`)
			g.wantLines(0, `is back$`)
		}
	})
}

func TestOtherSecretIsWorthOneLogLineAMinute(t *testing.T) {
	t.Parallel()
	const secrets = "swordfish of the west\nswordfish of the east"
	west, east, _ := strings.Cut(secrets, "\n")
	// All beacons reach all; and the two rooms have been told of each other.
	port, other := freePort(t), freePort(t)
	ann := startNode(t, port, []string{"-v", "-secret", file(t, "secret", west), "Ann"})
	tcp := foreignTCPPort(ann)
	bob := startNode(t, port, []string{"-v", "-peer", fmt.Sprint("127.0.0.1:", tcp), "Bob"}, withEnv("P2PCHAT_SECRET="+east))
	eve := startNode(t, port, []string{"-v", "-peer", fmt.Sprint("127.0.0.1:", tcp), "Eve"})
	cid := startNode(t, other, []string{"-v", "-secret", file(t, "secret", west), "-peer", fmt.Sprint("127.0.0.1:", tcp), "Cid"})
	cid.sees(patience, `Ann@127.0.0.1:\d+ joined$`)
	ann.say("of the west only")
	cid.sees(patience, `: of the west only$`)
	time.Sleep(5 * time.Second) // two beacons or three, and as many dials
	for _, p := range []*proc{ann, bob, eve, cid} {
		if p != ann && p != cid && p.out.String() != "" {
			t.Errorf("%s shows %q", p.name, p.out)
		}
		if n := p.count(` joined$`); n > 1 {
			t.Errorf("%s sees %d nodes join", p.name, n)
		}
		// Ann is knocked at by two that lack her secret, and hears two, all at
		// one address. A connection that fails is one offence for both sides,
		// a beacon another.
		for _, offence := range []string{`beacon from`, `(?:handshake with|dial)`} {
			if n := count(p.err.lines(), `^p2pchat: `+offence+` .*127\.0\.0\.1`); n > 1 {
				t.Errorf("%s: %d lines within seconds are %q, want one a minute:\n%s", p.name, n, offence, p.err)
			}
		}
		for secret := range strings.Lines(secrets) {
			secret = strings.TrimSuffix(secret, "\n")
			if strings.Contains(p.out.String()+p.err.String(), secret) {
				t.Errorf("%s shows its secret", p.name)
			}
			if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid)); err == nil && bytes.Contains(line, []byte(secret)) {
				t.Errorf("the command line of %s holds the secret: %q", p.name, line)
			}
		}
	}
}

// ---- keys and identities

func TestNoTwoConnectionsShareATrafficKey(t *testing.T) {
	t.Parallel()
	ann := startNode(t, freePort(t), []string{"Ann"})
	addr := fmt.Sprint("127.0.0.1:", foreignTCPPort(ann))
	cfg := tlsConfig(newKey()) // the same on all connections, with all that could be resumed
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	cfg.ServerName = "ann"
	var keys bytes.Buffer
	cfg.KeyLogWriter = &keys
	seen := map[string]int{}
	const connections = 3
	for i := range connections {
		raw, err := net.Dial("tcp4", addr)
		must(t, err)
		c := tls.Client(raw, cfg)
		must(t, c.Handshake())
		state := c.ConnectionState()
		if state.DidResume || state.Version != tls.VersionTLS13 {
			t.Errorf("connection %d: resumed %v, version %x", i, state.DidResume, state.Version)
		}
		seen[string(noError(state.ExportKeyingMaterial("EXPORTER-p2pchat", nil, 32)))]++
		heardBack(c, 200*time.Millisecond) // a session ticket would come
		raw.Close()
	}
	for line := range strings.Lines(keys.String()) {
		if f := strings.Fields(line); strings.Contains(f[0], "TRAFFIC_SECRET") {
			seen[f[0]+f[2]]++
		}
	}
	if want := connections * (1 + 4); len(seen) != want { // handshake and traffic, each way
		t.Errorf("%d connections have %d different keys, want %d", connections, len(seen), want)
	}
}

// TestNobodyPassesForAnother: Mallory is a member of the room, but has only the
// public part of what makes Vic Vic.
func TestNobodyPassesForAnother(t *testing.T) {
	t.Parallel()
	vic := newKey()
	stolen := tlsConfig(vic).Certificates[0].Certificate
	for name, presents := range map[string]func(mallory *tls.Certificate){
		"its own certificate": func(*tls.Certificate) {},
		"Vic's certificate":   func(mallory *tls.Certificate) { mallory.Certificate = stolen },
	} {
		t.Run(name+", at the place of Vic's replayed beacon", func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				ann := l.enter("Ann", deaf())
				mallory := l.enter("Mallory", deaf())
				presents(&mallory.node.tls.Certificates[0]) // before anybody dials
				ann.hears(vic, beacon{node: idOf(vic), counter: 1, port: 7700, name: "Vic"}, mallory.addr.Addr())
				after(10 * time.Second)
				if n := ann.peersNow(); n != 0 {
					t.Errorf("Ann is connected with %d nodes", n)
				}
				ann.wantLines(0, ``)
			})
		})
	}
	t.Run("Vic's certificate, dialing", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			near := l.dial(ann)
			cfg := tlsConfig(vic)
			cfg.Certificates[0].PrivateKey = newKey()
			c := tls.Client(near, cfg)
			if c.Handshake() == nil { // it returns before the server has judged it
				state := c.ConnectionState()
				exporter := noError(state.ExportKeyingMaterial("EXPORTER-p2pchat", nil, 32))
				c.Write(appendProof(nil, l.key.proofOf("d", exporter, idOf(vic), ann.id)))
				if typ, _, err := readFrame(c, maxFrame); err == nil {
					t.Errorf("Ann answers with a frame of type %d", typ)
				}
			}
			near.Close()
			after(time.Second)
			ann.wantLines(0, ``)
		})
	})
}

// ---- members that come and go

func TestVisitsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	port := freePort(t)
	ann, bob := startNode(t, port, []string{"Ann"}), startNode(t, port, []string{"Bob"})
	haveMet(ann, bob)
	addr := fmt.Sprint("127.0.0.1:", foreignTCPPort(ann))
	room := newRoomKey("")
	visits := func(n int) {
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				for range n / 4 {
					raw, err := net.Dial("tcp4", addr)
					if err != nil {
						t.Error(err)
						return
					}
					v, err := visit(raw, room, newKey(), helloOf("Visitor"))
					if err != nil {
						t.Errorf("visit: %v", err)
						return
					}
					v.says(hasNothing())
					if err := v.awaits(framePosts); err != nil { // what Ann has said
						t.Errorf("visit: %v", err)
					}
					if i%2 == 0 {
						v.says(appendBye(nil, byeLeaving))
						heardBack(v.tls, patience)
					}
					raw.Close()
				}
			})
		}
		all.Wait()
	}
	most := 1000
	if raced() {
		most = 200 // handshakes take their time
	}
	visits(most / 5) // the runtime's own growth
	settled := func() int { time.Sleep(2 * time.Second); return ann.descriptors() }
	files, memory := settled(), ann.megabytes()
	visits(most)
	n := 0
	eventually(t, slack(8*time.Second), func() string {
		n = ann.descriptors()
		return fmt.Sprintf("%d descriptors, %d before", n, files)
	}, func() bool { return n <= files })
	more := ann.megabytes() - memory
	ann.say("still here")
	for _, p := range []*proc{ann, bob} {
		p.sees(patience, `: still here$`)
		if lines := p.out.lines(); len(lines) != 2 {
			t.Errorf("%s shows %q, want one join and one line, as visitors said nothing", p.name, lines)
		}
	}
	ann.signal(syscall.SIGABRT) // makes the Go runtime list its goroutines
	ann.exits(patience)
	goroutines := strings.Count("\n"+ann.err.String(), "\ngoroutine ")
	t.Logf("after %d visits: %d descriptors, %d before; %d MB more; %d goroutines", most, n, files, more, goroutines)
	if goroutines == 0 || goroutines > 40 {
		t.Errorf("%d goroutines with one peer, after %d visits", goroutines, most)
	}
	if limit := 15 * int(slack(1)); more > limit {
		t.Errorf("%d MB more after %d visits, limit %d", more, most, limit)
	}
}

// ---- names and texts that would be more than that

// hostileStrings returns what could break, forge or hide a line of a terminal.
func hostileStrings() (all []string) {
	for r := range ' ' {
		all = append(all, string(r), fmt.Sprintf("x%cy%cz", r, r))
	}
	for r := rune(0x7f); r < 0xa0; r++ {
		all = append(all, string(r))
	}
	for _, r := range "\u00ad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e" +
		"\u2060\u2061\u2066\u2067\u2068\u2069\u206a\u3164\ufeff\ufff9\U000e0001\U000e0041\U0001d173" {
		all = append(all, fmt.Sprintf("x%cy", r))
	}
	const forged = "2026-11-22 15:04:05 * Ann@127.0.0.1 left"
	return append(all,
		"\x1b[2J\x1b[H", "\x1b[31m", "\x1b[8m", "\x1b[10A", "\x1b[?1049h", "\u009b2J", "\x9b2J", // CSI
		"\x1b]52;c;aGVsbG8=\x07", "\x1b]52;c;aGVsbG8=\x1b\\", "\u009d52;c;aGVsbG8=\u009c", "\x1b]0;owned\x07", // OSC
		"\x1bP+q544e\x1b\\", "\u0090q\u009c", "\x1b_x\x1b\\", "\x1bc", "\x1b(0", "\x0e", // DCS, APC, resets and sets
		"\n"+forged, "\r"+forged, "\u2028"+forged, "\u0085"+forged, "\v"+forged, strings.Repeat("\b", 50)+forged,
		"\xff", "\xfe\xff", "\xc0\x9b", "\xc0\x8a", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x80", "\xf0\x9f\x98",
		"e"+strings.Repeat("\u0301", 60), strings.Repeat("e\u0301\u0302\u0303", 17), "\u0301", strings.Repeat("\u20dd", 40),
		"@:/*()>", " -> me: ", ": forged", " joined", "  ", "\t", "\u00a0", "\u3000", "%s%d%n", strings.Repeat("x", 120),
	)
}

// hostileLine is any line of a member whose name begins with three digits.
var hostileLine = regexp.MustCompile(`^` + stampPat + ` (?:\* )?(\d{3})[^@:/*()>]*@127\.0\.0\.1(?::\d+)?\??` +
	`(?:( joined| left)|( is now )[^@:/*()>]+|(: <| -> me: <).+>)$`)

func TestWhateverAMemberSaysIsOneCleanLine(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	ann, bob := startNode(t, port, []string{"Ann"}), startNode(t, port, []string{"Bob"})
	haveMet(ann, bob)
	addr := fmt.Sprint("127.0.0.1:", foreignTCPPort(ann))
	room := newRoomKey("")
	cases := hostileStrings()
	for i, hostile := range cases {
		mallory := &scribe{key: newKey(), name: fmt.Sprintf("%03d", i) + hostile, addr: netip.MustParseAddrPort("127.0.0.1:9")}
		mallory.id = idOf(mallory.key)
		now := time.Now().UnixMicro()
		run := []post{
			mallory.writes(kindJoin, now, ""),
			mallory.writes(kindLines, now+1, "<"+strings.ReplaceAll(hostile, "\n", "\r")+">"), // LF parts lines
			mallory.writes(kindRename, now+2, mallory.name+"b"),
			mallory.writes(99, now+3, hostile), // of a later version
			mallory.writes(kindLeave, now+4, hostile),
		}
		raw, err := net.Dial("tcp4", addr)
		must(t, err)
		hi := helloOf(mallory.name)
		hi.time += int64(time.Hour / time.Microsecond) // so that Ann has to name it on standard error
		v, err := visit(raw, room, mallory.key, hi)
		must(t, err)
		v.says(hasNothing(), framed(framePosts, runOf(mallory.id, run[:4])),
			appendDirect(nil, direct{1, now, []byte("<" + hostile + ">")}))
		must(t, v.waitsFor(func(typ byte, body []byte) bool { return typ == frameHave && body[8] == 1 })) // DIRECT 1 has arrived
		v.says(framed(framePosts, runOf(mallory.id, run[4:])), appendBye(nil, byeLeaving))
		heardBack(v.tls, patience)
		raw.Close()
	}
	ann.say("and that was all")
	for _, p := range []*proc{ann, bob} {
		each := []string{" joined", ": <", " is now ", " left"}
		if p == ann {
			each = append(each, " -> me: <")
		}
		const frame = 2 // that the other joined, and the last line
		p.sees(patience, `: and that was all$`)
		p.seesCount(patience, len(cases), ` \* \d{3}[^@\n]*@[\d.:]+\?? left$`)
		lines := p.out.lines()
		if want := len(cases)*len(each) + frame; len(lines) != want {
			t.Errorf("%s shows %d lines, want %d", p.name, len(lines), want)
		}
		got := map[string]int{}
		for _, line := range lines {
			if m := hostileLine.FindStringSubmatch(line); m != nil {
				got[m[1]+m[2]+m[3]+m[4]]++
			}
		}
		for i, hostile := range cases {
			for _, what := range each {
				if n := got[fmt.Sprintf("%03d%s", i, what)]; n != 1 {
					t.Errorf("%s shows %d lines with %q of %q, want 1", p.name, n, what, hostile)
				}
			}
		}
		for _, line := range slices.Concat(lines, p.err.lines()) {
			if why := cmp.Or(unclean(line), tooMuch(line)); why != "" {
				t.Errorf("%s prints %s: %q", p.name, why, line)
			}
		}
	}
	if n := len(ann.err.lines()); n != 2 {
		t.Errorf("Ann has %d lines on standard error, want one of her own, and one for the clock of that host, which is an hour off", n)
	}
}

// tooMuch says whether more marks stand on one letter than languages need.
func tooMuch(line string) string {
	if regexp.MustCompile(`\pM{9}`).MatchString(line) {
		return "a flood of combining marks"
	}
	return ""
}

// ---- members that lie about others

// TestLiarIsCutOffAndTheTruthComesFromOthers: Vic said what he said and left.
// Bob and Cid ask Mallory for it, who claims to have most of it, before they
// meet Ann, who has the truth. Dan knows only Bob.
func TestLiarIsCutOffAndTheTruthComesFromOthers(t *testing.T) {
	t.Parallel()
	const lines = 6
	lied := []byte("lied")
	// reseal makes a post that Vic did not sign.
	reseal := func(p post, vic nodeID, alter func(*post)) post {
		alter(&p)
		return noError(parsePost(vic, sealPost(newKey(), vic, p).sealed))
	}
	changed := func(run []post, vic nodeID, i int, alter func(*post)) []post {
		run = slices.Clone(run)
		run[i] = reseal(run[i], vic, alter)
		return run
	}
	text := func(p *post) { p.text = lied }
	back := func(p *post) { p.time -= int64(time.Second / time.Microsecond / 2) }
	for _, c := range []struct {
		name   string
		honest bool          // it may be one that doesn't know better, and need not be cut off
		wait   time.Duration // before it answers; Ann comes after half a second
		runs   func(run []post, vic nodeID) [][]post
	}{
		{"alters the middle", false, 0, func(run []post, vic nodeID) [][]post { return [][]post{changed(run, vic, 3, text)} }},
		{"alters the end", false, 0, func(run []post, vic nodeID) [][]post { return [][]post{changed(run, vic, len(run)-1, text)} }},
		{"alters the middle, and chains the rest to it", false, 0, func(run []post, vic nodeID) [][]post {
			run = changed(run, vic, 3, text)
			for i := 4; i < len(run); i++ {
				run[i] = reseal(run[i], vic, func(p *post) { p.prev = run[i-1].link })
			}
			return [][]post{run}
		}},
		{"forges all", false, 0, func(run []post, vic nodeID) [][]post {
			run = slices.Clone(run)
			for i := range run {
				run[i] = reseal(run[i], vic, func(p *post) {
					if text(p); i > 0 {
						p.prev = run[i-1].link
					}
				})
			}
			return [][]post{run}
		}},
		{"forges one more", false, 0, func(run []post, vic nodeID) [][]post {
			end := run[len(run)-1]
			return [][]post{run, {reseal(end, vic, func(p *post) {
				p.number, p.time, p.prev, p.kind, p.text = end.number+1, end.time+1e6, end.link, kindLines, lied
			})}}
		}},
		{"reorders", false, 0, func(run []post, _ nodeID) [][]post {
			return [][]post{slices.Concat(run[:2], []post{run[3], run[2]}, run[4:])}
		}},
		{"drops from the middle", false, 0, func(run []post, _ nodeID) [][]post {
			return [][]post{slices.Concat(run[:2], run[3:])}
		}},
		{"drops from between two frames", false, time.Second, func(run []post, _ nodeID) [][]post { return [][]post{run[:2], run[4:]} }},
		{"drops from between two frames, while nobody knows better", false, 0, func(run []post, _ nodeID) [][]post {
			return [][]post{run[:2], run[4:]}
		}},
		{"drops the end", true, 0, func(run []post, _ nodeID) [][]post { return [][]post{run[:4]} }},
		{"tells nothing", true, 0, func([]post, nodeID) [][]post { return nil }},
		{"back-dates the middle", false, 0, func(run []post, vic nodeID) [][]post { return [][]post{changed(run, vic, 3, back)} }},
		{"back-dates the end", false, 0, func(run []post, vic nodeID) [][]post { return [][]post{changed(run, vic, len(run)-1, back)} }},
		{"back-dates the beginning, alone", false, 0, func(run []post, vic nodeID) [][]post { return [][]post{changed(run, vic, 0, back)[:1]} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				vic := l.enter("Vic")
				ann := l.enter("Ann")
				after(time.Second)
				for i := range lines {
					vic.says("true %d", i)
					after(time.Second)
				}
				vic.leaves()
				after(time.Second)
				run := l.postsOf(ann, vic.id)
				if len(run) != lines+2 {
					t.Fatalf("Ann has %d posts of Vic, want %d", len(run), lines+2)
				}
				bob := l.enter("Bob", deaf())
				cid := l.enter("Cid", deaf(), apartFrom(bob))
				dan := l.enter("Dan", deaf(), apartFrom(ann, cid), told(bob))
				mallory := newKey()
				runs := c.runs(run, vic.id)
				liars := []*liar{l.liar(bob, mallory, vic.id, c.wait, runs), l.liar(cid, mallory, vic.id, c.wait, runs)}
				after(time.Second / 2)
				for _, g := range []*guest{bob, cid} { // whoever is to dial
					g.hears(ann.h().key, beacon{node: ann.id, counter: 1, port: 7700, name: "Ann"}, ann.addr.Addr())
					ann.hears(g.h().key, beacon{node: g.id, counter: 1, port: 7700, name: g.name}, g.addr.Addr())
				}
				after(15 * time.Second)
				for i, x := range liars {
					if asked, over := x.asked.Load(), x.isCutOff(); !asked || !over && !c.honest {
						t.Errorf("liar %d: was asked %v, is cut off %v", i, asked, over)
					}
				}
				for _, g := range []*guest{bob, cid, dan} {
					g.wantLines(0, `lied`)
					g.wantLines(lines, `^Vic@10.0.0.1\?: true \d$`)
					g.wantLines(1, `^\* Vic@10.0.0.1\? left$`)
				}
				l.wantSame(lines, ann, bob, cid, dan)
			})
		})
	}
}

// postsOf returns the posts of an author that g holds.
func (l *lab) postsOf(g *guest, author nodeID) (run []post) {
	for _, e := range g.h().chronology() {
		if e.feed.id == author && !isNote(e.kind) {
			run = append(run, noError(parsePost(author, e.sealed)))
		}
	}
	return run
}

// A liar claims to hold more of vic than there is, and answers once when it is
// asked for that.
type liar struct {
	*visitor
	asked atomic.Bool
}

// liar connects a liar with g. It answers after wait.
func (l *lab) liar(g *guest, key ed25519.PrivateKey, vic nodeID, wait time.Duration, runs [][]post) *liar {
	x := &liar{}
	x.visitor = l.visitor(g, key, "Mallory", func(v *visitor, typ byte, body []byte) {
		if typ != frameWant {
			return
		}
		parseWant(body, func(author nodeID, w want) {
			if author != vic || w.from == 0 || x.asked.Swap(true) {
				return
			}
			time.Sleep(wait)
			for _, run := range runs {
				v.says(framed(framePosts, runOf(vic, run)))
			}
		})
	})
	const claimed = 100
	x.says(has(vic, span{1, claimed, 1}))
	x.repeats(heartbeat, func(int) []byte { return framed(frameHave, frameList{}.have()) })
	return x
}

// ---- members that insist

// nag connects a member with g that begins with an empty vector, and then
// repeats itself.
func (l *lab) nag(g *guest, every time.Duration, what func(i int) []byte, answer func(v *visitor, typ byte, body []byte)) *visitor {
	v := l.visitor(g, newKey(), "Mallory", answer)
	v.says(hasNothing())
	v.repeats(every, what)
	return v
}

// TestClockOfAPeerExcusesNoTime: somebody says that her clock is centuries off,
// and that Cid was lost at a time that would be now by that clock.
func TestClockOfAPeerExcusesNoTime(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	for _, ahead := range []time.Duration{250 * year, time.Hour, math.MinInt64} {
		inBubble(t, func(t *testing.T, l *lab) {
			cid, _, ann := l.behind()
			hi := helloOf("Mallory")
			hi.time = time.Now().Add(ahead).UnixMicro()
			if ahead == math.MinInt64 {
				hi.time = math.MinInt64
			}
			mallory := l.visitorWith(ann, newKey(), hi, func(v *visitor, typ byte, body []byte) {
				if typ == frameWant {
					at := min(max(time.Now().Add(ahead).UnixMicro(), 0), latestTime)
					v.says(appendSeen(nil, sighting{cid.id, kindLost, at, []byte("Cid"), cid.addr}))
				}
			})
			mallory.says(hasNothing())
			mallory.repeats(time.Second, func(int) []byte { return claims(cid.id, span{1, 100, 1}, netip.AddrPort{}) })
			after(20 * time.Second)
			ann.wantLines(0, `Cid.* lost$`)
			if n := count(ann.warnings(), `^the clock of Mallory@10\.9\.9\.9 differs from ours by `); n != 1 {
				t.Errorf("Ann is told %d times of a clock that is %v ahead", n, ahead)
			}
		})
	}
}

// TestInventedAuthorDoesNotPassForAMember: somebody relays what an author of her
// own says, who bears the name and the address of Cid.
func TestInventedAuthorDoesNotPassForAMember(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, ann := l.enter("Cid"), l.enter("Ann")
		after(3 * time.Second)
		cid.says("it is me")
		x := &scribe{key: newKey(), name: "Cid", addr: cid.addr}
		x.id = idOf(x.key)
		now := time.Now().UnixMicro()
		run := []post{x.writes(kindJoin, now, ""), x.writes(kindLines, now+1, "send the money to Eve"), x.writes(kindRename, now+2, "Sid")}
		eve := l.visitor(ann, newKey(), "Eve", func(v *visitor, typ byte, body []byte) {
			if typ == frameWant {
				v.says(framed(framePosts, runOf(x.id, run)), appendSeen(nil, sighting{x.id, kindLost, now + 3, []byte("Sid"), cid.addr}))
			}
		})
		eve.says(hasNothing(), claims(x.id, span{1, 3, run[2].link.mark()}, netip.AddrPort{}))
		after(10 * time.Second)
		ann.wantLines(1, `^\* Cid@10\.0\.0\.1 joined$`)
		ann.wantLines(1, `^Cid@10\.0\.0\.1: `)
		ann.wantLines(1, `^\* Cid@10\.0\.0\.1\? joined$`)
		ann.wantLines(1, `^Cid@10\.0\.0\.1\?: send the money to Eve$`)
		ann.wantLines(1, `^\* Cid@10\.0\.0\.1\? is now Sid$`)
		ann.wantLines(1, `^\* Sid@10\.0\.0\.1\? lost$`)
		ann.wantLines(0, `Sid@10\.0\.0\.1 `)
	})
}

// TestAliasIsThatOfWhoIsFoundThere: Ann's table names Bob, and another program of his
// host says that his port is its own, while nobody listens there, or as one whom Ann has
// dialed at another port.
func TestAliasIsThatOfWhoIsFoundThere(t *testing.T) {
	t.Parallel()
	for _, dialed := range []bool{false, true} {
		inBubble(t, func(t *testing.T, l *lab) {
			bob := l.enter("Bob", deaf())
			bob.mu.Lock()
			bob.closed = true
			bob.mu.Unlock()
			eve := l.enter("Eve", deaf(), func(g *guest, _ *options) { g.addr = netip.AddrPortFrom(bob.addr.Addr(), 7701) })
			ann := l.enter("Ann", deaf(), listed("Backup", bob, 0))
			whose := func() (name string) {
				for _, m := range ann.members() {
					if slices.Contains(m.aliases, "Backup") {
						name = m.name
					}
				}
				return name
			}
			after(10 * time.Second)
			if dialed {
				ann.hears(eve.h().key, beacon{node: eve.id, counter: 1, port: 7701, name: "Eve"}, eve.addr.Addr())
			} else {
				l.visitorOn(l.dialFrom(bob.addr.String(), ann), newKey(), helloOf("Eve"), nil).says(hasNothing())
			}
			after(3 * time.Second)
			if name := whose(); name != "" || ann.peersNow() != 1 {
				t.Errorf("%q has the alias of Bob, who isn't there, and Ann is connected with %d", name, ann.peersNow())
			}
			bob.mu.Lock()
			bob.closed = false
			bob.mu.Unlock()
			after(3 * time.Second)
			if name := whose(); name != "Bob" {
				t.Errorf("%q has the alias of Bob, who is there", name)
			}
		})
	}
}

// TestPortOfAnotherIsNotBelieved: on one host somebody claims, by her name and her
// HELLO, to be Cid.
func TestPortOfAnotherIsNotBelieved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, ann := l.enter("Cid"), l.enter("Ann")
		after(3 * time.Second)
		x := &scribe{key: newKey(), name: "Cid", addr: cid.addr}
		x.id = idOf(x.key)
		v := l.visitorOn(l.dialFrom(cid.addr.String(), ann), x.key, helloOf("Cid"), nil)
		now := time.Now().UnixMicro()
		v.says(hasNothing(), framed(framePosts, runOf(x.id, []post{x.writes(kindJoin, now, ""), x.writes(kindLines, now+1, "send the money to Eve")})))
		after(time.Second)
		marks := map[nodeID]string{}
		for _, m := range ann.members() {
			marks[m.id] = m.mark
		}
		if marks[cid.id] != "" || marks[x.id] != "?" {
			t.Errorf("behind the address /members shows %q for Cid and %q for the other, want a question mark for the other alone", marks[cid.id], marks[x.id])
		}
		for who, id := range map[string]nodeID{"@Cid@10.0.0.1": cid.id, "@10.0.0.1:7700": cid.id, "@Cid@10.0.0.1?": x.id, "@10.0.0.1:7700?": x.id} {
			if to, _, text, _ := whoOf(who+" psst", ann.members()); len(to) != 1 || to[0].id != id || text != "psst" {
				t.Errorf("%q is said to %d nodes, or to the wrong one", who+" "+text, len(to))
			}
		}
		v.says(claims(newScribe(8, "Dan").id, span{}, netip.MustParseAddrPort("10.0.0.77:7700")))
		v.raw.Close()
		after(10 * time.Second)
		cid.says("it is me")
		after(time.Second)
		ann.wantLines(1, `^Cid@10\.0\.0\.1: it is me$`)
		ann.wantLines(1, `^Cid@10\.0\.0\.1\?: send the money to Eve$`)
		ann.wantLines(1, `^\* Cid@10\.0\.0\.1\? lost$`)
		ann.wantLines(2, `^\* Cid@10\.0\.0\.1\?? joined$`)
		ann.wantLines(0, `^\* Cid@10\.0\.0\.1 lost$`)
	})
}

// claims is the HAVE of one author.
func claims(author nodeID, s span, at netip.AddrPort) []byte {
	return framed(frameHave, frameList{ids: []nodeID{author}, spans: []span{s}, addrs: []netip.AddrPort{at}}.have())
}

// TestConnectionsThatEndAtOnceAreDialedRarely: a member that answers each dial
// and hangs up doesn't keep a node busy; one connection that lasts is enough to
// be dialed at once again.
func TestConnectionsThatEndAtOnceAreDialedRarely(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		eve := nodeID{1}
		waits := func(lasts time.Duration) time.Duration {
			ann.node.mu.Lock()
			c := &conn{n: ann.node, transport: transport{peer: eve, addr: netip.MustParseAddrPort("10.9.9.9:7700"), raw: &meter{}, since: time.Now()}, telling: telling{authors: map[nodeID]bool{}}}
			ct := ann.contactLocked(eve)
			ct.heardAt = time.Now()
			ann.moveLocked(ct, up, c)
			ann.node.mu.Unlock()
			time.Sleep(lasts)
			ann.unregister(c, io.EOF)
			ann.node.mu.Lock()
			defer ann.node.mu.Unlock()
			return time.Until(ann.contacts[eve].dialAt)
		}
		if first := waits(0); first > 0 {
			t.Errorf("the first is dialed after %v", first)
		}
		last := time.Duration(0)
		const more = 100
		for i := range more {
			if wait := waits(0); wait < last || wait <= 0 || wait > retryMost {
				t.Errorf("connection %d is dialed anew after %v, the one before after %v", i+2, wait, last)
			} else {
				last = wait
			}
		}
		if last != retryMost {
			t.Errorf("after %d that ended at once, the wait is %v", more+1, last)
		}
		if wait := waits(2 * retryFirst); wait > 0 {
			t.Errorf("after one that lasted, it is dialed after %v", wait)
		}
	})
}

// TestClaimThatIsRepeatedStarvesNobody: Ann hears Cid through Bob alone, and
// somebody says each second that it has more of Cid than there is.
func TestClaimThatIsRepeatedStarvesNobody(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, _, ann := l.behind()
		l.nag(ann, time.Second, func(int) []byte { return claims(cid.id, span{1, 1 << 40, 1}, netip.AddrPort{}) }, nil)
		after(10 * time.Second)
		for i := range 20 {
			cid.says("line %d", i)
			after(3 * time.Second)
		}
		after(time.Minute)
		ann.wantLines(20, `: line`)
	})
}

// TestOneMemberKeepsNothingFromANewcomersScreen: whatever a member claims that
// a newcomer meets first, and however slowly it serves what it is asked for,
// what the others hold is on the screen within 5 s of meeting them, and what
// they say is there at once.
func TestOneMemberKeepsNothingFromANewcomersScreen(t *testing.T) {
	t.Parallel()
	const lines = 20
	for _, c := range []struct {
		name string
		// lies has eve tell the newcomer what she has, and returns what she
		// sends after each interval from when she is asked on.
		lies func(eve *scribe, say func(...[]byte), ann nodeID, cid []post, gone nodeID) (drops []byte, every time.Duration)
	}{
		{"more of Ann than there is", func(_ *scribe, say func(...[]byte), ann nodeID, _ []post, _ nodeID) ([]byte, time.Duration) {
			say(has(ann, span{1, 1 << 62, 7}))
			return nil, 0
		}},
		{"a billion posts of her own, one every 2 s", func(eve *scribe, say func(...[]byte), _ nodeID, _ []post, _ nodeID) ([]byte, time.Duration) {
			say(has(eve.id, span{1, 1e9, 7}))
			return nil, 2 * time.Second
		}},
		{"a billion posts of her own, five a second", func(eve *scribe, say func(...[]byte), _ nodeID, _ []post, _ nodeID) ([]byte, time.Duration) {
			say(has(eve.id, span{1, 1e9, 7}))
			return nil, 200 * time.Millisecond
		}},
		{"what she then withdraws, and sends pieces of nothing", func(eve *scribe, say func(...[]byte), _ nodeID, _ []post, _ nodeID) ([]byte, time.Duration) {
			x := newScribe(78, "Nobody").id
			say(has(x, span{1, 1e9, 7}), claims(x, span{}, netip.AddrPort{}))
			return appendPart(nil, append(x[:], make([]byte, 3000)...), true), 500 * time.Millisecond
		}},
		{"a gap of an invented author", func(_ *scribe, say func(...[]byte), _ nodeID, _ []post, _ nodeID) ([]byte, time.Duration) {
			say(has(newScribe(77, "Nobody").id, span{100, 200, 7}))
			return nil, 0
		}},
		{"what the others hold, and serves nothing", func(_ *scribe, say func(...[]byte), _ nodeID, cid []post, gone nodeID) ([]byte, time.Duration) {
			say(has(gone, span{1, uint64(len(cid)), cid[len(cid)-1].link.mark()}))
			return nil, 0
		}},
		{"what the others hold, and serves a post every 1.5 s", func(_ *scribe, say func(...[]byte), _ nodeID, cid []post, gone nodeID) ([]byte, time.Duration) {
			say(has(gone, span{1, uint64(len(cid)), cid[len(cid)-1].link.mark()}))
			return []byte("cid"), 1500 * time.Millisecond
		}},
	} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob, cid := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
			after(time.Second)
			for i := range lines {
				cid.says("line %d", i)
				ann.says("remark %d", i)
			}
			after(time.Second)
			gone := l.postsOf(ann, cid.id)
			cid.leaves()
			after(10 * time.Second)

			nat := l.enter("Nat", apartFrom(ann, bob))
			eve := newScribe(66, "Eve")
			v := l.visitor(nat, eve.key, "Eve", nil)
			drops, every := c.lies(eve, v.says, ann.id, gone, cid.id)
			if every > 0 {
				mine := eve.chat(100)
				v.repeats(every, func(i int) []byte {
					switch {
					case drops == nil:
						return framed(framePosts, runOf(eve.id, mine[i%len(mine):][:1]))
					case len(drops) > 3:
						return drops
					}
					return framed(framePosts, runOf(cid.id, gone[i%len(gone):][:1]))
				})
			}
			v.repeats(heartbeat, func(int) []byte { return framed(frameHave, frameList{}.have()) })
			after(50 * time.Millisecond)
			l.healAll()
			for i := 0; nat.peersNow() < 3 && i < 50; i++ {
				after(100 * time.Millisecond)
			}
			ann.says("live at once")
			after(500 * time.Millisecond)
			nat.wantLines(1, `: live at once$`)
			after(4500 * time.Millisecond)
			nat.wantLines(lines, `: line \d+$`)
			nat.wantLines(lines, `: remark \d+$`)
			nat.wantLines(0, ` (lost|is back)$`)
			if t.Failed() {
				t.Fatalf("Eve claims %s", c.name)
			}
		})
	}
}

// TestSeveralHostsKeepNothingFromANewcomersScreen: six members, of two hosts, have brought a
// newcomer all that is left of Cid, or nothing of it, and say more and more of a
// billion posts of their own, in frames and in pieces that don't end. Those who hold
// the same have said nothing themselves.
func TestSeveralHostsKeepNothingFromANewcomersScreen(t *testing.T) {
	t.Parallel()
	const lines = 20
	for _, serves := range []bool{true, false} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob, cid := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
			after(time.Second)
			for i := range lines {
				cid.says("line %d", i)
			}
			after(time.Second)
			gone := l.postsOf(ann, cid.id)
			cid.leaves()
			after(10 * time.Second)

			nat := l.enter("Nat", apartFrom(ann, bob))
			for i := range 6 {
				eve := newScribe(66+i, "Eve")
				mine := eve.chat(50)
				v := l.visitorOn(l.dialFrom(fmt.Sprintf("10.9.9.%d:7700", i%2), nat), eve.key, helloOf("Eve"), func(v *visitor, typ byte, body []byte) {
					if typ == frameWant && serves && bytes.HasPrefix(body, append(cid.id[:], 0, 0, 0, 0, 0, 0, 0, 1)) {
						v.says(framed(framePosts, runOf(cid.id, gone)))
					}
				})
				v.says(claims(eve.id, span{1, 1e9, 7}, netip.AddrPort{}), has(cid.id, span{1, uint64(len(gone)), gone[len(gone)-1].link.mark()}))
				v.repeats(500*time.Millisecond, func(i int) []byte {
					return slices.Concat(framed(framePosts, runOf(eve.id, mine[i%len(mine):][:1])), appendPart(nil, append(eve.id[:], make([]byte, 2000)...), true))
				})
			}
			after(50 * time.Millisecond)
			l.healAll()
			for i := 0; nat.peersNow() < 8 && i < 50; i++ {
				after(100 * time.Millisecond)
			}
			after(5 * time.Second)
			nat.wantLines(lines, `: line \d+$`)
			nat.wantLines(1, `^\* end of history$`)
			if t.Failed() {
				t.Fatalf("they serve what others hold: %v", serves)
			}
		})
	}
}

// TestWhatNobodySignedKeepsNoNewcomerWaiting: somebody who is gone has said a line that he
// didn't sign, so nobody can send it. All others claim to have it, and Eve sends more and
// more of a billion posts of her own.
func TestWhatNobodySignedKeepsNoNewcomerWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob, vic := l.enter("Ann"), l.enter("Bob"), newScribe(9, "Vic")
		after(time.Second)
		run := vic.chat(10)
		run = append(run, vic.scrawls(kindLines, vic.last.time+1, "Vic says nothing"))
		for _, g := range []*guest{ann, bob} {
			v := l.visitor(g, vic.key, "Vic", nil)
			v.says(hasNothing(), framed(framePosts, runOf(vic.id, run)))
			after(time.Second)
			v.raw.Close()
		}
		after(10 * time.Second)
		nat, eve := l.enter("Nat"), newScribe(66, "Eve")
		mine := eve.chat(50)
		v := l.visitor(nat, eve.key, "Eve", nil)
		v.says(has(eve.id, span{1, 1e9, 7}))
		v.repeats(500*time.Millisecond, func(i int) []byte {
			return slices.Concat(framed(framePosts, runOf(eve.id, mine[i%len(mine):][:1])), appendPart(nil, append(eve.id[:], make([]byte, 2000)...), true))
		})
		after(5 * time.Second)
		nat.wantLines(9, `^Vic@.*: Vic says \d$`)
		nat.wantLines(1, `^\* end of history$`)
	})
}

// TestNobodyHasHeardWhatWasNotSaid: somebody acknowledges all that Ann will
// ever say, and goes; what she says then is heard by nobody.
func TestJoinIsTheFirstAndLeaveTheLastOfAnAuthor(t *testing.T) {
	t.Parallel()
	for name, then := range map[string][]byte{
		"a join after the first post": {kindJoin},
		"a line after the leave":      {kindLeave, kindLines},
		"a join after the leave":      {kindLeave, kindJoin},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				ann := l.enter("Ann", deaf())
				eve := newScribe(9, "Eve")
				s := l.visitor(ann, eve.key, "Eve", nil)
				s.says(hasNothing(), framed(framePosts, runOf(eve.id, eve.chat(2))))
				after(gatherPatience + time.Second)
				for _, kind := range then {
					eve.last = sealPost(eve.key, eve.id, eve.draft(kind, eve.last.time+1, "and more"))
					s.says(framed(framePosts, runOf(eve.id, []post{eve.last})))
				}
				after(time.Second)
				if !s.isCutOff() {
					t.Error("she is not cut off")
				}
				ann.wantLines(1, `^\* Eve@10.9.9.9 joined$`)
				ann.wantLines(0, `and more`)
			})
		})
	}
}

func TestNobodyHasHeardWhatWasNotSaid(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		mallory := l.nag(ann, time.Second, func(int) []byte { return claims(ann.id, span{1, 1 << 40, 1}, netip.AddrPort{}) }, nil)
		after(3 * time.Second)
		mallory.raw.Close()
		after(10 * time.Second)
		ann.setPatience(time.Second)
		ann.says("is anybody there?")
		best, _ := ann.waitDelivered(context.Background())
		if n, all := ann.h().linesAbove(best); n != 1 || !all {
			t.Error("what Ann said counts as heard")
		}
	})
}

// TestWhoAsksForWhatWeLackIsTold: Bob believes that Ann has posts of an author of whom
// she has none, and hears that she hasn't.
func TestWhoAsksForWhatWeLackIsTold(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		other, told := nodeID{7}, 0
		bob := l.visitor(ann, newKey(), "Bob", func(_ *visitor, typ byte, body []byte) {
			if typ == frameHave {
				parseHave(body, func(author nodeID, s span, _ netip.AddrPort) {
					if author == other && s == (span{}) {
						told++
					}
				})
			}
		})
		bob.says(hasNothing(), wantsOf([]nodeID{other}, 5))
		after(time.Second)
		if told != 1 {
			t.Errorf("Bob is told %d times, want once", told)
		}
	})
}

// TestWhatComesBehindOurGoodbyeIsNotTaken: Bob, who is not sure to be heard any more,
// isn't.
func TestWhatComesBehindOurGoodbyeIsNotTaken(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		bob := newScribe(7, "Bob")
		run := runOf(bob.id, bob.chat(2))
		parted := false
		l.visitor(ann, bob.key, "Bob", func(v *visitor, typ byte, _ []byte) {
			switch typ {
			case framePosts: // Ann's join and her leave
				v.says(has(ann.id, span{1, 2, 1}))
			case frameBye:
				parted = true
				v.says(framed(framePosts, run), appendDirect(nil, direct{1, time.Now().UnixMicro(), []byte("psst")}))
			}
		}).says(hasNothing())
		after(time.Second)
		ann.leaves()
		synctest.Wait()
		if n, taken := ann.h().about(bob.id).last, ann.contacts[bob.id].taken; !parted || n > 0 || taken > 0 {
			t.Errorf("Ann has said goodbye: %v; %d posts of Bob are taken, and direct message %d", parted, n, taken)
		}
	})
}

// TestSlowMemberHoldsUpNoPipe: once somebody has heard everything, the others
// have -wait in all, however often they say that they have a line more.
func TestSlowMemberHoldsUpNoPipe(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, _ := l.enter("Ann"), l.enter("Bob")
		after(10 * time.Second)
		ann.setPatience(3 * time.Second)
		eve := l.visitor(ann, newKey(), "Eve", nil)
		eve.says(claims(ann.id, span{1, 1, 1}, netip.AddrPort{}), hasNothing())
		after(time.Second)
		for range 20 {
			ann.says("one of twenty")
		}
		eve.repeats(2500*time.Millisecond, func(i int) []byte { return claims(ann.id, span{1, uint64(i + 2), 1}, netip.AddrPort{}) })
		began := time.Now()
		best, behind := ann.waitDelivered(context.Background())
		if took := time.Since(began); took < ann.patience || took > ann.patience+time.Second {
			t.Errorf("it took %v, want -wait, which is %v", took, ann.patience)
		}
		n, all := ann.h().linesAbove(best)
		if n != 0 || !all || len(behind) != 1 || !strings.HasPrefix(behind[0], "Eve@") {
			t.Errorf("nobody heard %d lines, and %q lag behind; want none, and Eve", n, behind)
		}
	})
}

// TestNobodyHoldsUpAPipeByNoProgress: Eve alone is there. She acknowledges Ann's join again
// and again, or takes again and again what a third has said, but not Ann's line.
func TestNobodyHoldsUpAPipeByNoProgress(t *testing.T) {
	t.Parallel()
	for _, takes := range []bool{false, true} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, xen, came := l.enter("Ann", deaf()), newScribe(5, "Xen"), atomic.Int64{}
			ann.setPatience(3 * time.Second)
			must2nd(t)(ann.h().add(xen.id, []post{xen.writes(kindLines, scribeTime, strings.Repeat("x", 100_000))}, true, false))
			eve := l.visitor(ann, newKey(), "Eve", func(_ *visitor, typ byte, body []byte) {
				if typ == framePosts || typ == framePart {
					came.Add(int64(len(body)))
				}
			})
			eve.says(appendGot(nil, 0), claims(ann.id, span{1, 1, 1}, netip.AddrPort{}), hasNothing(), wantsOf([]nodeID{xen.id}, 1))
			after(time.Second)
			ann.says("hi")
			got := int64(0)
			eve.repeats(time.Second, func(i int) []byte {
				if !takes {
					return claims(ann.id, span{uint64(i % 2), uint64(i % 2), 1}, netip.AddrPort{})
				}
				got = min(got+progress+1000, came.Load())
				return append(wantsOf([]nodeID{xen.id}, 1), appendGot(nil, got)...)
			})
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ann.waitDelivered(ctx)
			if took := time.Since(began); took > ann.patience+time.Second {
				t.Fatalf("it took %v, -wait is %v; Eve takes what a third has said: %v", took, ann.patience, takes)
			}
		})
	}
}

// TestLossOfOneWhomAnotherBringsIsNotBelieved: Ann hears Cid through Bob alone, and somebody
// who claims to have more of Cid says that he is lost.
func TestLossOfOneWhomAnotherBringsIsNotBelieved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, _, ann := l.behind()
		l.nag(ann, time.Second, func(int) []byte { return claims(cid.id, span{1, 1 << 40, 1}, netip.AddrPort{}) }, func(v *visitor, typ byte, _ []byte) {
			if typ == frameWant {
				v.says(appendSeen(nil, sighting{cid.id, kindLost, time.Now().UnixMicro(), []byte("Cid"), cid.addr}))
			}
		})
		after(10 * time.Second)
		cid.says("still here")
		after(5 * time.Second)
		ann.wantLines(1, `: still here$`)
		ann.wantLines(0, ` lost$`)
		cid.crash()
		after(10 * time.Second)
		ann.wantLines(1, `^\* Cid@10\.0\.0\.1\? lost$`)
	})
}

// TestHearsayKeepsNobodyApart: somebody tells two nodes, whose link has healed,
// of each other at addresses that swallow what is sent there.
func TestHearsayKeepsNobodyApart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		hole := l.enter("Hole", deaf(), apartFrom(ann, bob))
		after(3 * time.Second)
		l.setApart(ann, bob, true)
		after(20 * time.Second)
		for _, pair := range [][2]*guest{{ann, bob}, {bob, ann}} {
			l.nag(pair[0], 20*time.Millisecond, func(i int) []byte {
				return claims(pair[1].id, span{1, 1, 1}, netip.AddrPortFrom(hole.addr.Addr(), uint16(7700-i%2)))
			}, nil)
		}
		after(time.Second)
		l.setApart(ann, bob, false)
		after(5 * time.Second)
		for _, g := range []*guest{ann, bob} {
			g.wantLines(1, ` is back$`)
		}
	})
}

// TestSightingFromTheFutureIsNotBelieved, and doesn't keep true ones from being.
func TestSightingFromTheFutureIsNotBelieved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, _, ann := l.behind()
		mallory := l.nag(ann, time.Second, func(int) []byte { return claims(cid.id, span{1, 100, 1}, netip.AddrPort{}) },
			func(v *visitor, typ byte, body []byte) {
				if typ == frameWant {
					v.says(appendSeen(nil, sighting{cid.id, kindLost, latestTime, []byte("Cid"), cid.addr}))
				}
			})
		after(10 * time.Second)
		mallory.raw.Close()
		after(10 * time.Second)
		ann.wantLines(0, `Cid.* lost$`)
		cid.crash()
		after(20 * time.Second)
		ann.wantLines(1, `Cid.* lost$`)
	})
}
