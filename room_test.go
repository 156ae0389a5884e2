package main

// Rooms of many nodes in one process. Nodes talk over wires, an in-memory
// network that can be cut, under the fake clock of testing/synctest: hours of
// heartbeats take milliseconds, and a goroutine that is left over fails the
// test by itself.
//
// A test of a room is a function within inBubble. l.enter starts a node, after
// lets time pass, says and whispers are what its user types, and wantLines
// looks at its screen:
//
//	ann, bob := l.enter("Ann"), l.enter("Bob")
//	after(time.Second)
//	ann.says("hi")
//	after(time.Second)
//	bob.wantLines(1, `^Ann@10.0.0.1: hi$`)
//
// Nodes have addresses by the order in which they enter: the first is at
// 10.0.0.1, the second at 10.0.0.2, all on port 7700. Each holds a connection
// with each other within a second, and shows one line for that. P2PCHAT_LOG=1
// has the nodes log what the network does.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
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

// A lab is a network of nodes in one bubble.
type lab struct {
	t   testing.TB
	key *roomKey

	mu    sync.Mutex // guards all below
	nodes []*guest
	wires []*wire
	apart map[[2]*guest]bool // pairs that can't reach each other; false: but for beacons
	delay time.Duration      // what a dial takes before anything is sent

	freshCut bool // nothing passes on new connections until stall lets it
}

// A guest is a node of a lab, and what it printed.
type guest struct {
	*node
	name  string
	l     *lab
	addr  netip.AddrPort
	offer chan net.Conn // its listener
	stop  context.CancelFunc
	ended chan struct{}
	ahead atomic.Int64 // its clock, ns
	link  *slowLink    // of its link; nil: what is sent is there

	mu     sync.Mutex // guards all below
	out    bytes.Buffer
	errs   []string
	mute   bool   // hears and sends no beacons
	closed bool   // nobody listens there
	stuck  bool   // its printer does not print
	barred *guest // whom it can't dial
}

// setPatience has what g says wait so long for somebody, as -wait does.
func (g *guest) setPatience(d time.Duration) {
	g.node.mu.Lock()
	defer g.node.mu.Unlock()
	g.patience = d
}

func inBubble(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, key: newRoomKey(""), apart: map[[2]*guest]bool{}}
		defer func() {
			for _, g := range l.nodes {
				g.crash()
			}
			for _, g := range l.nodes {
				<-g.ended
			}
		}()
		f(t, l)
	})
}

type option func(*guest, *options)

type options struct {
	keep  int64
	clock time.Duration
	key   *roomKey
	told  []*target
	idle  time.Duration
	low   bool
}

// Options of enter. withClock sets the node's clock ahead by d.
func withKeep(n int64) option          { return func(_ *guest, o *options) { o.keep = n } }
func withClock(d time.Duration) option { return func(_ *guest, o *options) { o.clock = d } }
func withKey(k *roomKey) option        { return func(_ *guest, o *options) { o.key = k } }

// low gives it an ID that is lower than all others: it is the one that dials.
func low() option { return func(_ *guest, o *options) { o.low = true } }

// told names another node to it, as -peer does.
func told(o *guest) option {
	return func(_ *guest, opts *options) { opts.told = append(opts.told, &target{route: route{addr: o.addr}}) }
}

// listed names another node to it, as -peers and -idle do.
func listed(name string, o *guest, idle time.Duration) option {
	return func(g *guest, opts *options) {
		opts.told = append(opts.told, &target{route: route{addr: o.addr}, alias: name})
		opts.idle = idle
	}
}

// deaf is a node that neither hears beacons nor sends any, so that it meets
// only those that it is told of, that are told of it, or that both know.
func deaf() option { return func(g *guest, _ *options) { g.mute = true } }

// apartFrom cuts what lies between it and others before it starts. healAll
// mends that too.
func apartFrom(others ...*guest) option {
	return func(g *guest, _ *options) {
		for _, o := range others {
			g.l.setApart(g, o, true)
		}
	}
}

// enter starts a node.
func (l *lab) enter(name string, opts ...option) *guest {
	l.t.Helper()
	o := options{keep: 64 << 20, key: l.key}
	l.mu.Lock()
	i := len(l.nodes) + 1
	g := &guest{l: l, offer: make(chan net.Conn), ended: make(chan struct{})}
	g.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7700)
	l.mu.Unlock()
	for _, opt := range opts {
		opt(g, &o)
	}
	key := newKey()
	for o.low && idOf(key)[0] > 0 {
		_, key, _ = ed25519.GenerateKey(nil)
	}
	g.ahead.Store(int64(o.clock))
	clock := func() time.Time { return time.Now().Add(time.Duration(g.ahead.Load())) }
	h := newHistory(key, o.keep, clock, func() netip.AddrPort { return g.addr })
	g.name, g.node = name, newNode(key, h, o.key, name, 7700, 7700)
	g.node.dial, g.node.targets, g.node.idle = g.dialOut, o.told, o.idle
	g.node.announceSoon = func() { go g.beacon() }
	g.node.warn = func(format string, args ...any) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.errs = append(g.errs, fmt.Sprintf(format, args...))
	}
	if os.Getenv("P2PCHAT_LOG") != "" {
		g.node.logf = func(format string, args ...any) {
			l.t.Logf("%v %s: "+format, append([]any{time.Now().Format("05.000"), name}, args...)...)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	l.mu.Lock()
	l.nodes = append(l.nodes, g)
	l.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { g.node.run(ctx, g) })
	wg.Go(func() { g.print(ctx) })
	wg.Go(func() { g.beacons(ctx) })
	go func() { wg.Wait(); close(g.ended) }()
	return g
}

// Accept, Close and Addr make a guest its own listener.
func (g *guest) Accept() (net.Conn, error) {
	select {
	case c := <-g.offer:
		return c, nil
	case <-g.node.ctx.Done():
		return nil, net.ErrClosed
	}
}
func (g *guest) Close() error   { return nil }
func (g *guest) Addr() net.Addr { return net.TCPAddrFromAddrPort(g.addr) }

// crash ends a node without a word.
func (g *guest) crash() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.node.cancel()
	g.stop()
}

// leaves ends a node in order, and waits for that.
func (g *guest) leaves() {
	g.stop()
	<-g.ended
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

func (g *guest) beacons(ctx context.Context) {
	for ctx.Err() == nil {
		g.beacon()
		select {
		case <-time.After(beaconEvery):
		case <-ctx.Done():
		}
	}
}

// beacon reaches every node that is not cut off.
func (g *guest) beacon() {
	x := beacon{node: g.id, counter: uint64(time.Now().UnixNano()), port: 7700, name: g.myName()}
	packet := g.room.sealBeacon(g.h().key, x)
	g.l.mu.Lock()
	nodes := slices.Clone(g.l.nodes)
	g.l.mu.Unlock()
	for _, o := range nodes {
		if o != g && !g.l.areApart(g, o) && !g.silent() && !o.silent() {
			if x, err := o.room.openBeacon(bytes.Clone(packet)); err == nil {
				o.heard(x, g.addr.Addr())
			}
		}
	}
}

// hears has g hear a beacon that says x, signed by the given key.
func (g *guest) hears(key ed25519.PrivateKey, x beacon, from netip.Addr) {
	g.heard(noError(g.room.openBeacon(g.room.sealBeacon(key, x))), from)
}

func (g *guest) silent() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mute || g.closed
}

func (g *guest) dialOut(ctx context.Context, _, addr string) (net.Conn, error) {
	g.l.mu.Lock()
	i := slices.IndexFunc(g.l.nodes, func(o *guest) bool { return o.addr.String() == addr })
	if i < 0 {
		g.l.mu.Unlock()
		return nil, errors.New("no such host")
	}
	o, delay := g.l.nodes[i], g.l.delay
	g.l.mu.Unlock()
	g.mu.Lock()
	barred := g.barred == o
	g.mu.Unlock()
	g.l.mu.Lock()
	_, apart := g.l.apart[[2]*guest{g, o}]
	g.l.mu.Unlock()
	if barred || apart {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	time.Sleep(delay)
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		return nil, syscall.ECONNREFUSED
	}
	near, far := g.l.wire(g, o)
	select {
	case o.offer <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// setApart cuts, or mends, what lies between two nodes, both ways. What is sent
// over a connection that is cut waits until it is mended.
func (l *lab) setApart(a, b *guest, apart bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if apart {
		l.apart[[2]*guest{a, b}], l.apart[[2]*guest{b, a}] = true, true
	} else {
		delete(l.apart, [2]*guest{a, b})
		delete(l.apart, [2]*guest{b, a})
	}
	for _, w := range l.wiresLocked(a, b) {
		w.setCut(apart)
	}
}

// blockTCP does what setApart does, but beacons still pass. setApart mends it.
func (l *lab) blockTCP(a, b *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apart[[2]*guest{a, b}], l.apart[[2]*guest{b, a}] = false, false
	for _, w := range l.wiresLocked(a, b) {
		w.setCut(true)
	}
}

// wiresLocked returns the wires of all connections between two nodes.
func (l *lab) wiresLocked(a, b *guest) (all []*wire) {
	for _, w := range l.wires {
		if w.from == a && w.to == b || w.from == b && w.to == a {
			all = append(all, w)
		}
	}
	return all
}

// stall lets nothing pass on the connections that two nodes have, or lets all
// pass again. Beacons are heard, and new connections work.
func (l *lab) stall(a, b *guest, stalled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wiresLocked(a, b) {
		w.setCut(stalled)
	}
}

// passed is how many bytes two nodes have sent each other.
func (l *lab) passed(a, b *guest) (bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wiresLocked(a, b) {
		w.mu.Lock()
		bytes += w.passed
		w.mu.Unlock()
	}
	return bytes
}

// dialsTake has each dial take a while before it is connected or refused.
func (l *lab) dialsTake(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

func (l *lab) areApart(a, b *guest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.apart[[2]*guest{a, b}]
}

// split cuts the network between two groups.
func (l *lab) split(as, bs []*guest) {
	for _, a := range as {
		for _, b := range bs {
			l.setApart(a, b, true)
		}
	}
}

// healAll mends everything that split, setApart and apartFrom have cut.
func (l *lab) healAll() {
	for _, a := range l.nodes {
		for _, b := range l.nodes {
			if a != b {
				l.setApart(a, b, false)
			}
		}
	}
}

// ---- slow links

// A slowLink is what the link of a guest carries towards it.
type slowLink struct {
	mu     sync.Mutex // guards all below
	rate   int        // bytes per second
	free   time.Time  // when all that was taken will have come
	passed int        // bytes so far
}

// takes waits until n more bytes have come over the link.
func (p *slowLink) takes(n int) {
	p.mu.Lock()
	if now := time.Now(); p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	p.passed += n
	wait := time.Until(p.free)
	p.mu.Unlock()
	time.Sleep(wait) // on the fake clock of the bubble
}

// slow has the guest's link carry so many bytes a second towards it.
func slow(rate int) option {
	return func(g *guest, _ *options) { g.link = &slowLink{rate: rate} }
}

// ---- wires

// A wire carries bytes one way. While it is cut they wait in it, and neither end learns
// that the other has closed.
type wire struct {
	from, to *guest

	mu     sync.Mutex // guards all below
	moved  *sync.Cond
	buf    []byte
	passed int // bytes, in all
	cut    bool
	closed bool // by either end
	ended  bool // by the one that writes
}

// isOver says whether the end that writes knows that the wire is closed. The caller
// holds mu.
func (w *wire) isOver() bool { return w.ended || w.closed && !w.cut }

const wireSize = 128 << 10

func (l *lab) wire(a, b *guest) (near, far net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	there, back := &wire{from: a, to: b, cut: l.freshCut}, &wire{from: b, to: a, cut: l.freshCut}
	there.moved, back.moved = sync.NewCond(&there.mu), sync.NewCond(&back.mu)
	l.wires = append(l.wires, there, back)
	// The dialing side has a port of its own, as with TCP.
	from := netip.AddrPortFrom(a.addr.Addr(), uint16(20000+len(l.wires)))
	return &wireEnd{in: back, out: there, local: from, remote: b.addr}, &wireEnd{in: there, out: back, local: b.addr, remote: from}
}

func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	w.moved.Broadcast()
}

// A wireEnd is one end of a connection: two wires.
type wireEnd struct {
	net.Conn      // nil: what isn't overridden isn't used
	in, out       *wire
	local, remote netip.AddrPort
	shut          sync.Once
	over          bool
}

func (e *wireEnd) Read(b []byte) (int, error) {
	w := e.in
	w.mu.Lock()
	defer w.mu.Unlock()
	for (len(w.buf) == 0 || w.cut) && !(w.closed && !w.cut) && !e.over {
		w.moved.Wait()
	}
	if e.over {
		return 0, net.ErrClosed
	}
	if len(w.buf) == 0 {
		return 0, errors.New("EOF")
	}
	if p := w.to.link; p != nil {
		b = b[:min(len(b), len(w.buf), 1000)]
		w.mu.Unlock()
		p.takes(len(b))
		w.mu.Lock()
	}
	n := copy(b, w.buf)
	w.buf = w.buf[n:]
	w.moved.Broadcast()
	return n, nil
}

func (e *wireEnd) Write(b []byte) (int, error) {
	w := e.out
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) > wireSize && !w.isOver() {
		w.moved.Wait()
	}
	if w.isOver() {
		return 0, net.ErrClosed
	}
	w.buf = append(w.buf, b...)
	w.passed += len(b)
	w.moved.Broadcast()
	return len(b), nil
}

func (e *wireEnd) Close() error {
	e.shut.Do(func() {
		for _, w := range []*wire{e.in, e.out} {
			w.mu.Lock()
			w.closed = true
			if w == e.in {
				e.over = true
			} else {
				w.ended = true
			}
			w.moved.Broadcast()
			w.mu.Unlock()
		}
	})
	return nil
}

func (e *wireEnd) LocalAddr() net.Addr                { return net.TCPAddrFromAddrPort(e.local) }
func (e *wireEnd) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(e.remote) }
func (e *wireEnd) SetDeadline(time.Time) error        { return nil }
func (e *wireEnd) SetReadDeadline(t time.Time) error  { return nil }
func (e *wireEnd) SetWriteDeadline(t time.Time) error { return nil }

// ---- what guests do and show

func (g *guest) print(ctx context.Context) {
	l := newLiner(g.h(), 7700)
	var b batch
	for ctx.Err() == nil {
		for !g.isStuck() && g.h().take(g.h().printer, &b, followSize) {
			out := l.appendAll(nil, b)
			g.mu.Lock()
			g.out.Write(out)
			g.mu.Unlock()
		}
		select {
		case <-g.h().printer.wake:
		case <-ctx.Done():
		}
	}
}

func (g *guest) h() *history { return g.node.history }

func (g *guest) isStuck() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stuck
}

// bar has g dial o in vain from here on; o may dial g.
func (g *guest) bar(o *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.barred = o
}

func (g *guest) setStuck(stuck bool) {
	g.mu.Lock()
	g.stuck = stuck
	g.mu.Unlock()
	wake(g.h().printer.wake)
}

// says is a line that g's user types.
func (g *guest) says(format string, args ...any) {
	g.say(kindLines, fmt.Appendf(nil, format, args...))
}

// screen returns what g printed, without timestamps.
func (g *guest) screen() []string {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return withoutStamps(g.out.String())
}

func withoutStamps(text string) []string {
	var lines []string
	for s := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if len(s) > len(stampLayout) {
			lines = append(lines, s[len(stampLayout)+1:])
		}
	}
	return lines
}

// warnings returns what g told its user on standard error.
func (g *guest) warnings() []string {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.errs)
}

// recalls returns the history of g as everybody should have it: itself by
// name and address like anybody else, all by the addresses that they name
// themselves, and without what was merely observed.
func (g *guest) recalls() []string {
	l := &liner{port: 7700, reached: func(nodeID) *netip.AddrPort { return nil }} // whose self is nobody
	var b []byte
	for _, e := range g.h().chronology() {
		if !isNote(e.kind) {
			b = l.appendEvent(b, &event{feed: e.feed, sealed: e.sealed, time: e.time, kind: e.kind}) // wherever it was met
		}
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// peersNow is how many nodes g is connected with.
func (g *guest) peersNow() int {
	g.node.mu.Lock()
	defer g.node.mu.Unlock()
	return len(g.conns)
}

// count is how many lines match re.
func count(lines []string, re string) int {
	rx, n := regexp.MustCompile(re), 0
	for _, s := range lines {
		if rx.MatchString(s) {
			n++
		}
	}
	return n
}

// wantLines fails unless exactly n lines of g's screen match re, of all that it
// has shown so far. An empty re matches each line.
func (g *guest) wantLines(n int, re string) {
	g.l.t.Helper()
	if got := g.screen(); count(got, re) != n {
		g.l.t.Errorf("%s shows %d lines that match %q, want %d; its screen:\n%s", g.name, count(got, re), re, n, clip(strings.Join(got, "\n")))
	}
}

// wantSame fails unless all nodes hold the same history, with n messages.
func (l *lab) wantSame(n int, nodes ...*guest) {
	l.t.Helper()
	want := nodes[0].recalls()
	if got := count(want, `: `); got != n {
		l.t.Errorf("%s holds %d messages, want %d", nodes[0].name, got, n)
	}
	for _, g := range nodes[1:] {
		if got := g.recalls(); !slices.Equal(got, want) {
			l.t.Errorf("%s and %s hold different histories:\n%s\n--- and\n%s", nodes[0].name, g.name,
				clip(strings.Join(want, "\n")), clip(strings.Join(got, "\n")))
		}
	}
}

// after lets d pass on the fake clock, and waits until all nodes have done what
// they do at that instant.
func after(d time.Duration) { time.Sleep(d); synctest.Wait() }

const smallKeep = 64 << 10

// outtalks has g say so much that a small keep holds nothing else any more.
func (g *guest) outtalks() {
	for i := range 100 {
		g.says("%d %s", i, strings.Repeat("x", 1000))
		after(100 * time.Millisecond)
	}
}

// whispers sends a direct message from g to o.
func (g *guest) whispers(t *testing.T, o *guest, text string) {
	t.Helper()
	all := g.members()
	i := slices.IndexFunc(all, func(m member) bool { return m.id == o.id })
	if i < 0 {
		t.Fatalf("%s is not connected with %s", g.name, o.name)
	}
	must(t, g.sendDirect(all[i], []byte(text)))
}

// counts has g say "line 0" to "line 4", a second each.
func (g *guest) counts() {
	for i := range 5 {
		g.says("line %d", i)
		after(time.Second)
	}
}

// wantNoWarning fails if g told its user anything on standard error.
func (g *guest) wantNoWarning(t *testing.T) {
	t.Helper()
	if w := g.warnings(); len(w) > 0 {
		t.Errorf("%s is told %q", g.name, w)
	}
}

// behind has Ann hear Cid through Bob alone.
func (l *lab) behind() (cid, bob, ann *guest) {
	cid, bob = l.enter("Cid"), l.enter("Bob")
	ann = l.enter("Ann", apartFrom(cid))
	after(5 * time.Second)
	return cid, bob, ann
}

// ---- claims

func TestRoomMeetsOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		const n = 12
		for i := range n {
			l.enter(fmt.Sprint("N", i))
		}
		after(3 * time.Second)
		for _, g := range l.nodes {
			if g.peersNow() != n-1 {
				t.Errorf("%s is connected with %d nodes, want %d", g.name, g.peersNow(), n-1)
			}
			g.wantLines(n-1, ` joined$`)
			g.wantLines(n-1, ``)
		}
	})
}

func TestQuietRoomStaysQuiet(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		for i := range 4 {
			l.enter(fmt.Sprint("N", i))
		}
		after(10 * time.Minute)
		for _, g := range l.nodes {
			g.wantLines(3, ``)
		}
	})
}

func TestLeavingAndCrashingAreToldApart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b, c := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
		after(time.Second)
		b.leaves()
		after(100 * time.Millisecond)
		a.wantLines(1, `^\* Bob@10.0.0.2 left$`)
		c.crash()
		after(100 * time.Millisecond)
		a.wantLines(1, `^\* Cid@10.0.0.3 lost$`)
		after(time.Minute)
		a.wantLines(4, ``)
	})
}

func TestNewcomerGetsHistoryOnceInOrderAndFramed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b, c := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
		after(time.Second)
		for i := range 20 {
			[]*guest{a, b, c}[i%3].says("line %d", i)
			after(time.Second)
		}
		b.leaves()
		c.crash()
		after(time.Second)
		d := l.enter("Dan")
		after(time.Second)
		got := d.screen()
		if len(got) == 0 || !regexp.MustCompile(`^\* history: 25 events from Ann@10.0.0.1$`).MatchString(got[0]) {
			t.Fatalf("the newcomer's screen begins with %q", got)
		}
		if got[len(got)-1] != "* end of history" {
			t.Errorf("the newcomer's screen ends with %q", got[len(got)-1])
		}
		d.wantLines(1, `^\* Bob@10.0.0.2\? left$`)
		d.wantLines(1, `^\* Cid@10.0.0.3\? lost$`)
		next := 0
		for _, s := range got {
			if strings.HasSuffix(s, fmt.Sprintf(": line %d", next)) {
				next++
			}
		}
		if next != 20 || count(got, `: line \d+$`) != 20 {
			t.Errorf("the newcomer shows %d messages, the first %d in order, want 20:\n%s", count(got, `: line`), next, strings.Join(got, "\n"))
		}
		l.wantSame(20, a, d)
	})
}

func TestNodesInALineHearEachOther(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b := l.enter("Ann"), l.enter("Bob")
		c := l.enter("Cid", apartFrom(a))
		after(3 * time.Second)
		a.says("from one end")
		c.says("from the other")
		after(2 * time.Second)
		c.wantLines(1, `^Ann@10.0.0.1\?: from one end$`)
		a.wantLines(1, `^Cid@10.0.0.3\?: from the other$`)
		a.leaves()
		after(2 * time.Second)
		c.wantLines(1, `^\* Ann@10.0.0.1\? left$`)
		d := l.enter("Dan", apartFrom(a, b))
		after(5 * time.Second)
		d.wantLines(1, `^Ann@10.0.0.1\?: from one end$`)
		l.wantSame(2, b, c, d)
	})
}

func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		for i := range 8 {
			l.enter(fmt.Sprint("N", i))
		}
		after(3 * time.Second)
		l.split(l.nodes[:4], l.nodes[4:])
		after(10 * time.Second)
		for i := range 10 {
			for _, g := range l.nodes {
				g.says("%s says %d", g.name, i)
			}
			after(time.Second)
		}
		l.nodes[0].crash()
		after(time.Second)
		l.healAll()
		after(5 * time.Second)
		l.wantSame(80, l.nodes[1:]...)
		for _, g := range l.nodes[2:] {
			g.wantLines(10, `: N1 says \d$`)
			g.wantLines(10, `: N0 says \d$`)
		}
		l.nodes[7].wantLines(3, `is back$`)
	})
}

func TestStallIsNotALossButSilenceIs(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b, c := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
		after(3 * time.Second)
		l.split([]*guest{a}, []*guest{b, c})
		after(3 * time.Second)
		l.healAll()
		after(20 * time.Second)
		b.wantLines(0, `lost|back|left`)

		b.says("before the cut")
		l.split([]*guest{a}, []*guest{b, c})
		after(8 * time.Second)
		b.wantLines(1, `^\* Ann@10.0.0.1 lost$`)
		b.says("during the cut")
		after(8 * time.Second)
		l.healAll()
		after(5 * time.Second)
		b.wantLines(1, `^\* Ann@10.0.0.1 is back$`)
		a.wantLines(1, `during the cut`)
		l.wantSame(2, a, b, c)
	})
}

func TestAnswersSortAfterQuestionsThoughClocksDiffer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b, c := l.enter("Ann", withClock(-2*time.Minute)), l.enter("Bob"), l.enter("Cid", withClock(2*time.Minute))
		after(3 * time.Second)
		for i := range 30 {
			[]*guest{c, a, b}[i%3].says("line %d.", i)
			after(200 * time.Millisecond)
		}
		l.wantSame(30, a, b, c)
		next := 0
		for _, s := range a.recalls() {
			if strings.HasSuffix(s, fmt.Sprintf(": line %d.", next)) {
				next++
			}
		}
		if next != 30 {
			t.Errorf("line %d does not stand after line %d:\n%s", next, next-1, strings.Join(a.recalls(), "\n"))
		}
	})
}

func TestClockFarOffDragsNobodyAlongAndIsToldOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b := l.enter("Ann"), l.enter("Bob", withClock(time.Hour))
		after(time.Second)
		b.says("from the future")
		after(time.Second)
		a.says("from the present")
		after(time.Minute)
		for _, e := range a.h().chronology() {
			if e.feed.id == a.id && time.UnixMicro(e.time).After(time.Now()) {
				t.Errorf("Ann's clock was dragged to %v", time.UnixMicro(e.time))
			}
		}
		for _, g := range []*guest{a, b} {
			if w := g.warnings(); len(w) != 1 || !strings.Contains(w[0], "clock of") {
				t.Errorf("%s warns %q, want one line about the clock", g.name, w)
			}
		}
	})
}

// stamps returns by how much the posts of g from number on are stamped ahead of
// the true time of now.
func (g *guest) stamps(number uint64) (ahead []time.Duration) {
	events, _ := g.h().posts(g.id, number, 1<<20)
	for _, e := range events {
		ahead = append(ahead, time.UnixMicro(e.time).Sub(time.Now()))
	}
	return ahead
}

func TestOwnClockThatJumpsIsFollowed(t *testing.T) {
	t.Parallel()
	const jump = 2 * clockLimit
	t.Run("forward, and corrected", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob, cid := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
			after(time.Minute)
			ann.ahead.Store(int64(jump))
			after(time.Minute)
			cid.crash() // which is noted
			after(time.Minute)
			ann.ahead.Store(0)
			after(time.Second)
			ann.says("on time")
			after(time.Second)
			if got := ann.stamps(2); len(got) != 1 || got[0].Abs() > 2*time.Second {
				t.Errorf("Ann's line is stamped %v ahead of the time", got)
			}
			want := []string{
				"the clock of this machine went forward by 10m0s, or the machine slept; lines go on from there",
				"the clock of this machine went back by 10m0s; lines go on from there",
			}
			if got := ann.warnings(); !slices.Equal(got, want) {
				t.Errorf("Ann is told %q, want %q", got, want)
			}
			if got := bob.warnings(); len(got) != 1 || !strings.HasPrefix(got[0], "the clock of Ann@10.0.0.1 differs from ours by 10m0s") {
				t.Errorf("Bob is told %q", got)
			}
		})
	})
	t.Run("back", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann", withClock(jump)), l.enter("Bob", withClock(jump))
			after(2 * jump)
			bob.says("what time is it?")
			after(time.Second)
			ann.ahead.Store(0)
			after(time.Second)
			ann.says("earlier than you think")
			after(time.Minute)
			ann.says("and later")
			if got := ann.stamps(2); len(got) != 2 || got[0] > -time.Minute || got[1].Abs() > time.Second {
				t.Errorf("Ann's lines are stamped %v ahead of the time", got)
			}
		})
	})
	t.Run("what was said meanwhile keeps its place", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob, cid := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
			after(time.Minute)
			ann.ahead.Store(int64(jump))
			after(time.Minute)
			ann.says("one")
			ann.ahead.Store(0)
			after(time.Second)
			ann.says("two")
			cid.crash()
			after(time.Second)
			got := ann.stamps(2)
			if len(got) != 2 || got[0] < jump-time.Minute || got[1] != got[0]+time.Microsecond {
				t.Errorf("Ann's lines are stamped %v ahead of the time", got)
			}
			events := ann.h().chronology()
			if i := slices.IndexFunc(events, func(e *event) bool { return isNote(e.kind) }); time.UnixMicro(events[i].time).After(time.Now()) {
				t.Errorf("Cid is lost at %v", time.UnixMicro(events[i].time))
			}
			if w := ann.warnings(); len(w) != 2 || !strings.HasSuffix(w[1], "went back by 10m0s; what was said here last is stamped 10m0s later than that, and what is said until then comes right behind it") {
				t.Errorf("Ann is told %q", w)
			}
			after(jump)
			ann.says("three")
			after(time.Second)
			if got := ann.stamps(4); len(got) != 1 || got[0].Abs() > 2*time.Second {
				t.Errorf("after as long, Ann's line is stamped %v ahead of the time", got)
			}
			bob.wantLines(3, `^Ann@10.0.0.1: `)
		})
	})
	t.Run("less than five minutes", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann"), l.enter("Bob")
			after(time.Minute)
			for i := range 4 {
				ann.ahead.Store(int64(i%2) * int64(clockLimit-time.Second))
				after(time.Minute)
			}
			ann.wantNoWarning(t)
			bob.wantNoWarning(t)
		})
	})
}

func TestOtherSecretIsAnotherRoom(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		b := l.enter("Bob", withKey(secretKey()))
		a := l.enter("Ann", told(b))
		after(time.Minute)
		a.says("secret")
		after(time.Minute)
		b.wantLines(0, ``)
		a.wantLines(1, ``)
	})
}

func TestOneReachableNodeIsEnough(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		first := l.enter("N0", deaf())
		for i := range 4 {
			l.enter(fmt.Sprint("N", i+1), deaf(), told(first))
		}
		after(5 * time.Second)
		for _, g := range l.nodes {
			if g.peersNow() != 4 {
				t.Errorf("%s is connected with %d nodes, want 4", g.name, g.peersNow())
			}
		}
		l.nodes[3].crash()
		after(8 * time.Second)
		l.nodes[4].wantLines(1, `N3@.* lost$`)
	})
}

func TestBlockedPrinterLosesNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		const keep, lines = 256 << 10, 800
		a, b := l.enter("Ann", withKeep(keep)), l.enter("Bob", withKeep(keep))
		after(time.Second)
		b.setStuck(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		line := strings.Repeat("x", 1000)
		go func() {
			defer close(done)
			for i := range lines {
				a.h().waitRoom(ctx, true)
				a.says("%d %s", i, line)
			}
		}()
		after(5 * time.Second)
		b.setStuck(false)
		<-done
		after(time.Second)
		cancel()
		b.wantLines(lines, `: \d+ x+$`)
		if size := a.h().size; size > 2*keep {
			t.Errorf("Ann holds %d bytes, keep is %d", size, keep)
		}
	})
}

// TestPipeEndsAsSoonAsAllHaveHeard, and not after a wait for somebody who is
// connected already.
func TestPipeEndsAsSoonAsAllHaveHeard(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		l.enter("Bob")
		l.enter("Cid")
		after(10 * time.Second)
		ann.setPatience(patience)
		ann.says("done")
		began := time.Now()
		_, behind := ann.waitDelivered(context.Background())
		if took := time.Since(began); took > 50*time.Millisecond || len(behind) > 0 {
			t.Errorf("it took %v, and %q lag behind", took, behind)
		}
	})
}

// whenIn returns the time of the last event of g's history that holds text.
func whenIn(g *guest, text string) (at int64) {
	for _, e := range g.h().chronology() {
		if bytes.Contains(e.content().text, []byte(text)) {
			at = e.time
		}
	}
	return at
}

func TestDirectMessageReachesItsReceiverOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b, c := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
		after(time.Second)
		to := a.members()[0]
		must(t, a.sendDirect(to, []byte("just for you")))
		after(time.Second)
		b.wantLines(1, `^Ann@10.0.0.1 -> me: just for you$`)
		a.wantLines(1, `^Ann \(me\) -> Bob@10.0.0.2: just for you$`)
		c.wantLines(0, `just for you`)

		l.setApart(a, b, true) // it is sent into a dead connection, and again into the next
		must(t, a.sendDirect(to, []byte("once more")))
		after(4 * time.Second)
		l.setApart(a, b, false)
		after(6 * time.Second)
		b.wantLines(1, `once more`)
		if said, heard := whenIn(a, "once more"), whenIn(b, "once more"); said != heard {
			t.Errorf("said at %d, and shown as of %d", said, heard)
		}
		if w := a.warnings(); len(w) != 0 {
			t.Errorf("Ann is told %q of a message that arrived", w)
		}

		l.setApart(a, b, true)
		must(t, a.sendDirect(to, []byte("never")))
		after(10 * time.Second)
		if w := a.warnings(); len(w) != 1 || !strings.Contains(w[0], `"never"`) {
			t.Errorf("Ann is told %q, want that one message was not delivered", w)
		}
	})
}

// TestDirectMessageThatIsGivenUpSaysWhatToDo: a node that has left doesn't come back,
// since the same program, started again, is another node.
func TestDirectMessageThatIsGivenUpSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, then func(l *lab, a, b *guest) // what happens before the message is sent, and right after it
		want         string
	}{
		"it had left":      {func(_ *lab, _, b *guest) { b.leaves() }, nil, `could not be delivered: "psst"; it has left`},
		"it has crashed":   {func(_ *lab, _, b *guest) { b.crash() }, nil, `could not be delivered: "psst"; send it again when it is back`},
		"the cable is out": {nil, func(l *lab, a, b *guest) { l.setApart(a, b, true) }, `was not acknowledged: "psst"; it may still arrive`},
		"we leave": {nil, func(l *lab, a, b *guest) {
			l.setApart(a, b, true)
			a.leaves()
		}, `was not acknowledged: "psst"; it may still arrive`},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				a, b := l.enter("Ann"), l.enter("Bob")
				after(3 * time.Second)
				to := a.members()[0]
				if c.before != nil {
					c.before(l, a, b)
					after(10 * time.Second)
				}
				must(t, a.sendDirect(to, []byte("psst")))
				if c.then != nil {
					c.then(l, a, b)
				}
				after(10 * time.Second)
				want := "a direct message to Bob@10.0.0.2 " + c.want
				if w := a.warnings(); !slices.Equal(w, []string{want}) {
					t.Errorf("Ann is told %q, want %q", w, want)
				}
			})
		})
	}
}

// TestWhoLeavesWaitsUntilAllIsHeard, where acknowledgements take a while.
func TestWhoLeavesWaitsUntilAllIsHeard(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		a, b := l.enter("Ann"), l.enter("Bob")
		after(3 * time.Second)
		stallAnswers := func(stalled bool) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, w := range l.wiresLocked(a, b) {
				if w.from == b {
					w.setCut(stalled)
				}
			}
		}
		stallAnswers(true)
		a.says("bye")
		must(t, a.sendDirect(a.members()[0], []byte("psst")))
		go a.leaves()
		after(leaveTimeout / 2)
		stallAnswers(false)
		<-a.ended
		if n, all := a.h().linesAbove(a.bestAck); n > 0 || !all {
			t.Errorf("Ann takes %d lines for not heard", n)
		}
		if w := a.warnings(); len(w) > 0 {
			t.Errorf("Ann is told %q", w)
		}
		after(time.Second)
		b.wantLines(1, `^Ann@10.0.0.1: bye$`)
		b.wantLines(1, `^Ann@10.0.0.1 -> me: psst$`)
		b.wantLines(1, `^\* Ann@10.0.0.1 left$`)
	})
}

func TestIdleConnectionRestsAndWakesForChat(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		b := l.enter("Bob", deaf())
		a := l.enter("Ann", deaf(), listed("Bobby", b, 2*time.Second))
		rest := func() {
			t.Helper()
			after(5 * time.Second)
			if a.peersNow() != 0 || b.peersNow() != 0 {
				t.Errorf("connections that should rest: %d and %d", a.peersNow(), b.peersNow())
			}
		}
		rest()
		if m := a.members(); len(m) != 1 || !m[0].idle {
			t.Errorf("members of Ann: %+v, want Bob, idle", m)
		}
		a.says("one")
		after(time.Second)
		b.wantLines(1, `^Ann@10.0.0.2: one$`)
		rest()
		b.says("two")
		after(time.Second)
		a.wantLines(1, `^Bob@10.0.0.1: two$`)
		rest()
		must(t, b.sendDirect(b.members()[0], []byte("three")))
		after(time.Second)
		a.wantLines(1, `-> me: three$`)
		rest()
		after(time.Minute)
		a.wantLines(0, `lost|left|back`)
		b.wantLines(0, `lost|left|back`)
		b.crash()
		after(8 * time.Second)
		a.wantLines(1, `^\* Bob@10.0.0.1 lost$`)
	})
}

// TestLineSaidAsAConnectionGoesToRestArrives: both speak in the moment in which Ann
// closes the connection for lack of chat, to everybody or to the other alone.
func TestLineSaidAsAConnectionGoesToRestArrives(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		inBubble(t, func(t *testing.T, l *lab) {
			bob := l.enter("Bob", deaf())
			ann := l.enter("Ann", deaf(), listed("Bobby", bob, time.Minute))
			after(time.Second)
			ann.node.mu.Lock()
			for _, c := range ann.conns {
				c.endLocked(byeIdle)
			}
			ann.node.mu.Unlock()
			if alone {
				ann.whispers(t, bob, "from Ann")
				bob.whispers(t, ann, "from Bob")
			} else {
				ann.says("from Ann")
				bob.says("from Bob")
			}
			after(time.Second)
			bob.wantLines(1, `^Ann@10.0.0.2( -> me)?: from Ann$`)
			ann.wantLines(1, `^Bob@10.0.0.1( -> me)?: from Bob$`)
		})
	}
}

// TestIdleConnectionWakesForWhatAThirdSays, but only if its peer doesn't hear
// that by itself.
func TestIdleConnectionWakesForWhatAThirdSays(t *testing.T) {
	t.Parallel()
	for _, apart := range []bool{true, false} {
		t.Run(fmt.Sprint("apart ", apart), func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				bob := l.enter("Bob", deaf())
				ann := l.enter("Ann", deaf(), listed("Bobby", bob, 2*time.Second))
				after(10 * time.Second)
				if ann.peersNow() != 0 {
					t.Fatal("the connection does not rest")
				}
				opts := []option{deaf(), told(ann)}
				if apart {
					opts = append(opts, apartFrom(bob))
				}
				dot := l.enter("Dot", opts...)
				after(2 * time.Second)
				bob.wantLines(1, `Dot@10.0.0.3\?? joined`)
				after(10 * time.Second)
				if got := ann.peersNow(); got != 1 {
					t.Errorf("Ann has %d connections, want that with Bob to rest again", got)
				}
				dot.says("hi")
				after(500 * time.Millisecond)
				if got, want := ann.peersNow() == 2, apart; got != want {
					t.Errorf("the connection is open: %v, want %v", got, want)
				}
				after(2 * time.Second)
				bob.wantLines(1, `: hi$`)
				ann.wantLines(0, `lost|left|back`)
				bob.wantLines(0, `lost|left|back`)
			})
		})
	}
}

// TestIdleNodeThatCanNotBeDialedIsNotLost: Ann made the connection that rests,
// and Bob, who hears her, can't.
func TestIdleNodeThatCanNotBeDialedIsNotLost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		bob := l.enter("Bob")
		ann := l.enter("Ann", listed("Bobby", bob, 2*time.Second))
		bob.bar(ann)
		after(10 * time.Second)
		if ann.peersNow() != 0 {
			t.Fatal("the connection does not rest")
		}
		bob.says("can you hear me?")
		after(20 * time.Second)
		bob.wantLines(0, ` lost$`)
		ann.says("no")
		after(time.Second)
		bob.wantLines(1, `: no$`)
		ann.wantLines(1, `: can you hear me\?$`)
		ann.crash()
		after(10 * time.Second)
		bob.wantLines(1, ` lost$`)
	})
}

func TestIdleNodeStillSaysThatItLeaves(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		b := l.enter("Bob", deaf())
		a := l.enter("Ann", deaf(), listed("Bobby", b, 2*time.Second))
		after(10 * time.Second)
		b.leaves()
		after(time.Second)
		a.wantLines(1, `^\* Bob@10.0.0.1 left$`)
		a.wantLines(2, ``)
	})
}

// TestAnyHistoryOfFaultsEndsInEqualHistories is the law of the program: after
// any mix of what can go wrong, once quiet, all who are there hold the same.
func TestAnyHistoryOfFaultsEndsInEqualHistories(t *testing.T) {
	t.Parallel()
	for seed := range seeds() {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			inBubble(t, func(_ *testing.T, l *lab) { faults(l, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

// seeds is how many rooms a random test tries.
func seeds() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("P2PCHAT_SEEDS"), 10, 32); err == nil {
		return n
	}
	return 9
}

func faults(l *lab, r *rand.Rand) {
	var alive []*guest
	said := map[string]bool{}
	for i := range 3 + r.IntN(4) {
		alive = append(alive, l.enter(fmt.Sprint("N", i)))
	}
	for step := range 60 {
		g := alive[r.IntN(len(alive))]
		switch k := r.IntN(20); {
		case k < 11:
			text := fmt.Sprintf("%s said %d", g.name, step)
			g.says("%s", text)
			said[text] = true
		case k < 13:
			other := alive[r.IntN(len(alive))]
			if other != g {
				l.setApart(g, other, true)
			}
		case k < 14:
			l.healAll()
		case k < 15 && len(alive) > 2:
			after(2 * time.Second) // long enough for one that lives to have what it said
			l.healAll()
			after(6 * time.Second)
			g.crash()
			alive = slices.DeleteFunc(alive, func(o *guest) bool { return o == g })
		case k < 16 && len(alive) > 2:
			l.healAll()
			after(12 * time.Second)
			g.leaves()
			alive = slices.DeleteFunc(alive, func(o *guest) bool { return o == g })
		case k < 17:
			alive = append(alive, l.enter(fmt.Sprint("M", step)))
		default:
			after(time.Duration(r.IntN(9000)) * time.Millisecond)
		}
		if r.IntN(3) == 0 {
			after(time.Duration(r.IntN(300)) * time.Millisecond)
		}
	}
	l.healAll()
	after(20 * time.Second)
	l.wantSame(len(said), alive...)
	for _, g := range alive {
		if g.peersNow() != len(alive)-1 {
			l.t.Errorf("%s is connected with %d nodes, want %d", g.name, g.peersNow(), len(alive)-1)
		}
		seen := map[string]int{}
		for _, s := range g.screen() {
			if _, text, ok := strings.Cut(s, ": N"); ok {
				seen[text]++
			}
		}
		for text, n := range seen {
			if n != 1 {
				l.t.Errorf("%s shows %q %d times", g.name, text, n)
			}
		}
	}
}
