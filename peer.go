package main

// This file holds the connections of a node. Exactly one stands with each other node.
//
// A connection begins with a handshake, which proves that both sides know the
// room's key. Whichever side dialed, the node with the lower ID decides which
// connection of a pair stands: the other says HELLO, and only the answer registers
// the connection. So a duplicate ends before anybody noticed it.
//
// A connection carries subscriptions to feeds. Its writer has one rule: of each, send
// the posts from the next one up to what the history holds. So live chat, relaying, the
// newcomer's history and healing after a cut are one thing. Only direct messages are
// queued for a peer. A slow peer costs no memory: its numbers fall behind. Each peer is
// subscribed to our own feed. For the feeds of others there are:
//
//	node.lacking  authors that somebody may have more of than we
//	node.sources  the peers that send us their posts
//	conn.theirs   what a peer has, by its own word
//	conn.wants    what is still to be asked of a peer
//	conn.subs     what a peer gets from us
//
// Which peer to ask for what is decided in history.go, and which node to dial in
// discovery.go. How much may be under way to a peer, and what a peer may have us
// do, are counted in protocol.go.
//
// One goroutine reads a connection and one writes it. The reader changes the state
// of the node and wakes writers; a writer turns state into frames. A tick, four
// times a second, does what depends on time: it dials, asks for what is missing,
// sends heartbeats, and finds out who has gone silent.
//
// The node knows nothing of terminals: it posts into the history, and warns the user.

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	tickEvery        = 250 * time.Millisecond
	heartbeat        = 1 * time.Second // a connection on which we sent nothing for so long is sent an empty HAVE
	slowHeartbeat    = 3 * heartbeat   // the heartbeat where the peer's beacons show that it lives, and in a large room
	largeRoom        = 64              // connections; the room of a node that has more is large
	relistEvery      = 4 * time.Second
	tellGap          = 10 * time.Millisecond // for each node of the room, between two times that all hear the news
	writeStep        = tickEvery / 5         // connections that wait to write go on at multiples of it
	handshakeTimeout = 5 * time.Second
	directPatience   = 8 * time.Second // before a direct message counts as undelivered
	unresponsive     = 8 * time.Second // a peer that acknowledged nothing for so long holds up no input
	leaveTimeout     = 600 * time.Millisecond
	slowFrame        = 3 * time.Second // a frame, or a run in pieces, may take so long while it is in the way of others

	maxHandshakes   = 256      // under way at once; a handshake takes a few milliseconds
	maxConns        = 1000     // far above a sensible full mesh; as many may be at rest
	maxConnsPerAddr = 220      // with one host, which may be a room of 200
	maxRestPerAddr  = 64       // connections with one host that are at rest
	maxWaiting      = 16       // sightings of one author that wait for its join
	vectorPart      = 1024     // authors of our vector that a peer hears of before it asks us to go on
	maxSubs         = 4096     // feeds that a peer may ask for
	maxTelling      = 1 << 13  // authors that a peer is to hear of one by one; when there are more it hears our vector anew
	maxLoading      = 2 << 20  // bytes of frames and of runs in pieces that have begun to come
	maxWriting      = 16 << 20 // bytes that are being written, beyond which peers get posts in small frames
	maxIdle         = 512      // bytes that an idle connection holds for writing
	maxHave         = 1 << 15  // bytes of a HAVE, which is laid out under the lock
	maxOutbox       = 1 << 20  // bytes of direct messages that wait for one peer
	progress        = 4 << 10  // bytes; a peer that takes so many is worth waiting for
)

// errDuplicate: another connection stands. The lower ID refuses with it, and the higher hears it.
const errDuplicate = byeError(byeDuplicate)

// A node is one participant of a room.
type node struct {
	id       nodeID        // immutable, like all up to wg
	tls      *tls.Config   // of all connections; it holds the key of the node
	room     *roomKey      // the key that a peer must know, too
	port     uint16        // TCP port that we listen on
	roomPort uint16        // UDP port of the room; as a TCP port it is not shown
	patience time.Duration // of -wait; with nobody connected for so long, what we say counts as delivered
	idle     time.Duration // after which a connection with a node of the table rests; 0: never
	history  *history      // what was said and seen
	outside
	ctx    context.Context // ends when the node does
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the node

	writing atomic.Int64 // bytes of frames that are being written

	mu         sync.Mutex    // guards all below
	changed    chan struct{} // closed and replaced at each tick, and when somebody came, went or acknowledged
	handshakes []*conn       // under way, the oldest first
	roster
	exchange
	outcome
	pulse pulse
	labour
	warned map[string]int // what the user was warned of in this launch, see isFirst
	logged map[string]int // offences that were logged in this minute
}

// An outside is how a node reaches what is outside of it. Immutable.
type outside struct {
	dial         func(ctx context.Context, network, addr string) (net.Conn, error) // as a net.Dialer does
	announceSoon func()                                                            // sends a beacon soon
	warn         func(string, ...any)                                              // tells the user
	logf         func(string, ...any)                                              // tells the user of -v
}

// An outcome is what became of what we said, the last of which is that we leave.
type outcome struct {
	leaving     bool      // we have said that we leave
	bestAck     uint64    // the newest post of our own that anybody has
	takenAt     time.Time // when waitDelivered began, a direct message was taken, or, while nobody had all, part of a post was
	lastMetAt   time.Time // when anybody was last connected
	undelivered int       // direct messages that were given up
}

// A labour is what all peers together made us do.
type labour struct {
	work    workload           // besides taking posts, and writing
	writes  workload           // of writing, by hosts
	loading int                // bytes that load counts
	loads   map[netip.Addr]int // of these, by hosts
	loaded  *sync.Cond         // they have become less, a tick came, or we leave
}

// A pulse holds when the tick last did each of its tasks.
type pulse struct {
	tickAt   time.Time // when the last tick came
	wokeAt   time.Time // when a tick last came late
	shown    time.Time // what the history's clock showed at the last tick
	toldAt   time.Time // when peers last heard the news
	relistAt time.Time // when relistLocked was last called
	loggedAt time.Time // when logged was last emptied
}

// A conn is a connection with one peer: first in its handshake, then registered.
type conn struct {
	// From the registration on, the fields up to the next empty line are immutable.
	n *node
	transport
	wake chan struct{} // receives when the writer has something to do

	// guarded by n.mu
	holdings
	work    tab       // the work that the peer made us do
	chatAt  time.Time // when it last carried chat
	wroteAt time.Time // when something was last to be sent
	bye     byte      // why we are about to end it; 0: we aren't
	parted  bool      // the peer was told that we leave, and what it sends after that is not taken
	telling telling
	wants   map[nodeID]want // what to ask for
	subs    map[nodeID]*sub // what to send
	stirred map[nodeID]bool // authors of subs that may have something new
	flow    flow            // how many bytes of posts may be under way
	served  served          // what the peer sent of what it was asked for

	writing // used by the writer alone
	reading // used by the reader alone, but for loading and late, which n.mu guards
}

// A holdings is what a peer has, by its own word, and how its clock goes.
type holdings struct {
	theirs    map[nodeID]claim
	vector    uint64        // number of its own last post, by the first part of its vector
	firstPart bool          // the first part of its vector is in
	more      bool          // it waits for our word to go on with its vector
	toldAll   bool          // its vector has ended
	dropped   bool          // we had no room for something in it
	ackedAt   time.Time     // when it last acknowledged something of ours, or began to lag
	ahead     time.Duration // by how much its clock is ahead of ours, clockLimit at most
}

// A writing is what the writer of a connection is about to send.
type writing struct {
	due    []*sub        // the feeds of which something is to be sent
	bulk   []byte        // what is left of a post that goes in pieces
	bulkOf nodeID        // whose post bulk is
	posted int           // bytes in the bodies of POSTS and PART of this write
	rest   time.Duration // after this write
}

// A reading is where the reader of a connection stands.
type reading struct {
	debt    time.Duration // the work that the peer has still to pay for
	part    []byte        // the pieces of a run so far
	loading int           // bytes that load counts
	late    time.Duration // for how long some of these were in the way of others
}

// A transport is what a connection is. The fields from since on are set by register.
type transport struct {
	raw    *meter         // the TCP connection
	tls    *tls.Conn      // what is said on it; nil: the turn of its handshake has not come
	dialed bool           // by us, where its HELLO says that it listens
	peer   nodeID         // zero until it has proven who it is
	addr   netip.AddrPort // where the peer listens, as we see it; in the handshake, where it speaks from
	since  time.Time      // when it was registered, or came to rest
	epoch  uint32         // of the HELLO that made it
	base   uint64         // number of our last post when it was registered
	held   int64          // bytes that our history had cost when it was registered
}

// A telling is what a peer is still to be told by HAVE.
type telling struct {
	authors map[nodeID]bool // it should hear what we have of these
	asked   bool            // the next part of our vector is due
	after   nodeID          // the last author of the part before; zero: there is none, so the vector begins anew
	flag    byte            // of the HAVE that tells of the last of authors: our vector, or a part of it, ends there
	goOn    bool            // the peer is to go on with its own vector
	beat    bool            // a HAVE is due, even if there is nothing to tell
	clock   bool            // another HELLO is due, since our clock has jumped
	got     bool            // a GOT is due
	arrived int64           // what GOT says: bytes in the bodies of all POSTS and PART that came
}

// A sub is how far we have sent a feed to the peer. The writer alone changes it.
type sub struct {
	author nodeID
	next   uint64 // number of the post to send next
	over   bool   // if the next post was dropped, a later one may be sent in its place
	behind uint64 // posts still to be sent, as of the last look; 0: they go first
	early  uint64 // posts behind this one may go ahead of their turn; 0: none may, for the peer had some of the feed
	notes  uint64 // seq of the last sighting that was sent
}

// newNode returns a node that has posted its join into h and waits to be run.
func newNode(key ed25519.PrivateKey, h *history, r *roomKey, name string, port, roomPort uint16) *node {
	now := time.Now()
	n := &node{
		id: h.self, tls: tlsConfig(key), room: r, port: port, roomPort: roomPort, history: h,
		outside:  outside{new(net.Dialer).DialContext, func() {}, func(string, ...any) {}, func(string, ...any) {}},
		changed:  make(chan struct{}),
		roster:   roster{conns: map[nodeID]*conn{}, rested: map[nodeID]*conn{}, contacts: map[nodeID]*contact{}, strays: map[nodeID]stray{}},
		exchange: exchange{lacking: map[nodeID]lacked{}, sources: map[nodeID]*source{}, news: map[nodeID]bulletin{}},
		outcome:  outcome{lastMetAt: now},
		pulse:    pulse{tickAt: now, shown: h.clock().Round(0), loggedAt: now},
		warned:   map[string]int{}, logged: map[string]int{},
	}
	n.loads, n.loaded = map[netip.Addr]int{}, sync.NewCond(&n.mu)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	h.say(kindJoin, []byte(name)) // before anybody can ask what we have
	return n
}

// run keeps the node alive until ctx ends; then it says goodbye, and returns
// when all its goroutines have. Connections come from l.
func (n *node) run(ctx context.Context, l net.Listener) {
	n.wg.Go(func() { n.accept(l) })
	n.wg.Go(func() {
		for ; n.ctx.Err() == nil; n.pause(tickEvery) {
			n.tick()
		}
	})
	<-ctx.Done()
	n.leave()
	l.Close()
	n.cancel()
	n.wg.Wait()
}

// leave tells everybody that we leave, and waits a moment for them to hear it.
func (n *node) leave() {
	n.say(kindLeave, nil)
	ctx, cancel := context.WithTimeout(n.ctx, leaveTimeout)
	defer cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leaving = true
	n.loaded.Broadcast()
	for _, c := range n.conns {
		c.bye = byeLeaving
		wake(c.wake)
	}
	for ctx.Err() == nil && (len(n.conns)+len(n.handshakes) > 0 || slices.ContainsFunc(slices.Collect(maps.Values(n.contacts)), (*contact).isReopening)) {
		n.waitLocked(ctx) // nodes that connect meanwhile hear it too
	}
	for _, ct := range n.contacts {
		n.expireLocked(ct, time.Now().Add(directPatience))
	}
}

// waitLocked lets go of the lock until something has changed, or ctx has ended.
func (n *node) waitLocked(ctx context.Context) {
	changed := n.changed
	n.mu.Unlock()
	defer n.mu.Lock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

func (n *node) changedLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// accept takes connections from l until that is closed. While as many handshakes are under way
// as may be, it takes no more than 500 a second, as each of them is there to have another give
// way. So a newcomer is through in 2 s where a thousand others connect again and again.
func (n *node) accept(l net.Listener) {
	for crowd := 0; ; {
		raw, err := l.Accept()
		switch {
		case err == nil:
			if _, crowded := n.enlist(raw, false); crowded {
				n.logOnce("crowd", "more than %d handshakes are under way, so the oldest give way", maxHandshakes)
				if crowd++; crowd%(maxHandshakes/4) == 0 {
					n.pause(tickEvery / 2)
				}
			}
		case errors.Is(err, net.ErrClosed):
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, c := range n.handshakes {
				c.raw.Close() // its turn won't come any more
			}
			return
		default:
			n.failed("accept", err)
			n.pause(tickEvery)
		}
	}
}

// pause waits for d or the end of the node.
func (n *node) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-n.ctx.Done():
	}
}

// warnOnceLocked warns the user, but not twice of the same, and of maxAlike of a kind.
func (n *node) warnOnceLocked(what, format string, args ...any) {
	if isFirst(n.warned, what) {
		n.warn(format, args...)
	}
}

// failed logs that something failed, and warns the user of a lack of descriptors.
func (n *node) failed(what string, err error) {
	n.logOnce(what, "%s: %v", what, err)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.warnOnceLocked("files", "no more connections can be made: %v; raise the limit of open files (ulimit -n)", err)
	}
}

// logOnce logs an offence, but not twice a minute, and maxAlike of a kind.
func (n *node) logOnce(what, format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if isFirst(n.logged, what) {
		n.logf(format, args...)
	}
}

// isFirst says whether what comes for the first time, and is one of the first maxAlike of
// its kind, which is its first word. seen counts both.
func isFirst(seen map[string]int, what string) bool {
	kind, _, _ := strings.Cut(what, " ")
	if seen[what] > 0 || seen[kind] >= maxAlike {
		return false
	}
	seen[kind]++
	seen[what]++
	return true
}

// attempt tries once to connect with the node at addr; as a probe it only makes a TLS
// handshake, to see who is there. A node that is not expect, unless that is zero, is turned
// away, but not by a probe.
func (n *node) attempt(ctx context.Context, addr netip.AddrPort, expect nodeID, probe bool) (a attempt) {
	raw, err := n.dial(ctx, "tcp", addr.String())
	if err != nil {
		n.failed("dial "+addr.String(), err)
		return attempt{err: err}
	}
	n.mu.Lock()
	if ct := n.contacts[expect]; ct != nil && ct.tie == suspect && ct.answeredAt.IsZero() {
		ct.answeredAt = time.Now()
	}
	n.mu.Unlock()
	a.answered = true
	if probe {
		c := tls.Client(raw, n.tls)
		if a.err = c.HandshakeContext(ctx); a.err == nil { // a frozen host accepts, and says nothing
			a.found, _, a.err = identify(c.ConnectionState())
		}
		raw.Close()
	} else {
		c, _ := n.enlist(raw, true)
		c.tls = tls.Client(c.raw, n.tls)
		a.found, a.err = n.connect(c, expect)
	}
	return a
}

// ---- making a connection

// enlist counts a connection of raw among the handshakes under way. When there are too many, one
// of the host that has most of them gives way: the oldest. The caller begins one that we dialed.
func (n *node) enlist(raw net.Conn, dialed bool) (c *conn, crowded bool) {
	c = &conn{n: n, wake: make(chan struct{}, 1), transport: transport{raw: &meter{Conn: raw, start: time.Now()}, dialed: dialed, addr: addrOf(raw.RemoteAddr())}}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handshakes = append(n.handshakes, c)
	if crowded = len(n.handshakes) > maxHandshakes; crowded {
		count := perHost(n.handshakes)
		most := slices.Max(slices.Collect(maps.Values(count)))
		oldest := slices.IndexFunc(n.handshakes, func(o *conn) bool { return count[o.addr.Addr()] == most })
		n.handshakes[oldest].raw.Close()
		n.handshakes = slices.Delete(n.handshakes, oldest, oldest+1)
	}
	n.beginLocked(c, c.raw.start)
	return c, crowded
}

// beginLocked begins the handshake of c, which somebody else asked for, unless it has begun,
// or the work that its host makes us do doesn't allow for it. Then the tick tries again.
func (n *node) beginLocked(c *conn, now time.Time) {
	host := c.addr.Addr()
	if c.dialed || c.tls != nil || !n.work.countHandshake(host, now) {
		return
	}
	if perHost(slices.Collect(maps.Values(n.conns)))[host] >= maxConnsPerAddr {
		n.work.count(host, 4*workPerTurn, now) // for it will hardly find a place
	}
	c.tls = tls.Server(c.raw, n.tls)
	n.wg.Go(func() { n.connect(c, nodeID{}) })
}

// connect has c make its handshake. If the other side proves that it belongs here, it starts
// the goroutines that read and write c; otherwise it closes it. It returns when the handshake
// has ended, and says who is there, as far as that is known. A peer that is not expect,
// unless that is zero, is turned away.
func (n *node) connect(c *conn, expect nodeID) (nodeID, error) {
	first, err := c.shake(expect)
	n.mu.Lock()
	n.handshakes = slices.DeleteFunc(n.handshakes, func(o *conn) bool { return o == c })
	n.changedLocked()
	n.mu.Unlock()
	if err != nil {
		c.raw.Close()
		if !errors.Is(err, errDuplicate) {
			n.logOnce("handshake "+c.addr.Addr().String(), "handshake with %v: %v", c.addr, err)
		}
		return c.peer, err
	}
	ctx, end := context.WithCancel(n.ctx)
	context.AfterFunc(ctx, func() { c.raw.Close() })
	n.wg.Go(func() { c.writeLoop(ctx, first) })
	n.wg.Go(func() {
		err := c.readLoop()
		c.load(0)
		end()
		n.unregister(c, err)
	})
	return c.peer, nil
}

// shake does the handshake: TLS, both proofs, HELLO. It registers the connection,
// and returns what is to be sent on it first.
func (c *conn) shake(expect nodeID) (first []byte, err error) {
	n := c.n
	ctx, cancel := context.WithTimeout(n.ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.raw.Close() })
	defer stop()
	if err := c.tls.Handshake(); err != nil { // ctx closes what is underneath; passed on, it would cost a goroutine
		return nil, err
	}
	var exporter []byte
	if c.peer, exporter, err = identify(c.tls.ConnectionState()); err != nil {
		return nil, err
	}
	if c.peer == n.id {
		return nil, errors.New("that is ourselves")
	}
	if expect != (nodeID{}) && c.peer != expect {
		return nil, fmt.Errorf("node %v is there, not %v", c.peer, expect)
	}
	say, err := n.room.prove(c.tls, c.dialed, n.id, c.peer, exporter)
	if err != nil {
		return nil, err
	}
	return c.exchangeHello(say)
}

// exchangeHello sends what is still to be said and, as the higher ID, HELLO. It hears
// the peer's HELLO and registers the connection, so the lower ID decides whether it
// stands. The lower's own HELLO, by which the higher registers it too, is returned.
func (c *conn) exchangeHello(say []byte) (first []byte, err error) {
	n := c.n
	lower := n.id.less(c.peer)
	n.mu.Lock()
	ct := n.contactLocked(c.peer)
	if !lower { // ask
		say = n.appendHello(say, ct.epoch)
	}
	n.mu.Unlock()
	if _, err := c.tls.Write(say); err != nil {
		return nil, err
	}
	x, err := readHello(c.tls)
	if err == nil {
		err = n.register(c, x)
	}
	switch {
	case err == nil:
	case err != errDuplicate:
		n.mu.Lock()
		ct.epoch++
		n.mu.Unlock()
	case lower:
		c.tls.Write(appendBye(nil, byeDuplicate)) // best effort: the connection ends either way
	}
	if lower {
		first = n.appendHello(nil, 0)
	}
	return first, err
}

func (n *node) appendHello(b []byte, epoch uint32) []byte {
	return appendHello(b, hello{epoch, n.history.clock().UnixMicro(), n.port, n.myName()})
}

// register makes c the connection with its peer, in the place of an old one if there is
// one. The lower ID refuses with errDuplicate when the old one stands, unless that is
// suspect or x has a later epoch. Either refuses when it has left, or has too many connections.
func (n *node) register(c *conn, x hello) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ct := n.contactLocked(c.peer)
	switch old := ct.conn; {
	case n.ctx.Err() != nil: // the peer would see us come, and be lost
		return errors.New("this node has left")
	case ct.tie == up && n.id.less(c.peer) && x.epoch <= old.epoch:
		return errDuplicate
	case ct.tie == up || ct.tie == suspect:
		n.chokedLocked(ct)
		clear(old.subs)
		// The peer may not know of the fresh one yet, and would take the end of the old one for a loss.
		time.AfterFunc(handshakeTimeout, func() { old.raw.Close() })
	case !n.makeRoomLocked(c):
		return errors.New("too many connections")
	}
	now := time.Now()
	c.dialed = c.dialed && c.addr.Port() == x.port
	c.addr, c.since, c.epoch = netip.AddrPortFrom(c.addr.Addr(), x.port), now, x.epoch
	c.base, c.held = n.history.about(n.id).last, n.history.total()
	c.theirs, c.subs, c.stirred, c.wants = map[nodeID]claim{}, map[nodeID]*sub{}, map[nodeID]bool{}, map[nodeID]want{}
	c.ackedAt, c.chatAt = now, now
	n.moveLocked(ct, up, c)
	ct.learn(c.addr)
	ct.heardAt = now
	if !ct.isMet() {
		ct.metAt = now
		n.suspectLocked(ct)
	}
	for _, t := range n.targets {
		if t.addr == c.addr && (c.dialed || !t.met && !t.refused && n.claimAddrLocked(c) == c.addr) {
			t.id, t.met = c.peer, t.met || c.dialed
		}
	}
	if n.leaving {
		c.bye = byeLeaving // so that it hears our goodbye, and doesn't take us for lost
	}
	c.telling.got = true
	c.beginVectorLocked()
	n.welcomeLocked(c, x)
	return nil
}

// beginVectorLocked has the peer hear our whole vector, from its beginning: all authors
// whose posts we hold, and all nodes that we are connected with.
func (c *conn) beginVectorLocked() {
	n, t := c.n, &c.telling
	t.authors = map[nodeID]bool{n.id: true}
	for id, ct := range n.contacts {
		if ct.conn != nil {
			t.authors[id] = true
		}
	}
	t.asked, t.after, t.flag = true, nodeID{}, 0
	wake(c.wake)
}

// welcomeLocked tells the history that the peer is here, and begins a newcomer's wait.
func (n *node) welcomeLocked(c *conn, x hello) {
	n.history.reached(c.peer, n.claimAddrLocked(c), x.name)
	n.sawOwnLocked(c.peer, post{kind: kindBack, addr: c.addr})
	if n.gather.from == "" {
		n.gather = gather{from: n.label(c.peer), at: c.since, owedAt: c.since}
		n.history.hold()
	}
	c.compareClocksLocked(x)
	n.logf("connected with %v (%s)", c.peer, n.label(c.peer))
}

// compareClocksLocked notes by how much the peer's clock, by its word, is ahead of ours.
func (c *conn) compareClocksLocked(x hello) {
	n := c.n
	ahead := time.UnixMicro(x.time).Sub(n.history.clock())
	c.ahead = min(max(ahead, -clockLimit), clockLimit)
	if c.ahead != ahead {
		n.warnOnceLocked("clock "+c.addr.Addr().String(), "the clock of %s differs from ours by %v; set one of the two", n.label(c.peer), ahead.Abs().Round(time.Second))
	}
}

// unregister takes c, which ended with err, out of the room, and finds what became of its peer.
func (n *node) unregister(c *conn, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ct, now := n.contactLocked(c.peer), time.Now()
	ct.epoch++
	maps.DeleteFunc(n.sources, func(_ nodeID, s *source) bool { return s.from == c })
	n.lackLocked(c.peer) // what it said ahead of its turn is taken now, or forgotten
	if ct.conn != c {
		return // a fresh connection has replaced it
	}
	n.logf("connection with %v (%s) ended: %v", c.peer, n.label(c.peer), err)
	if ct.brief++; now.Sub(c.since) > retryFirst {
		ct.brief = 0
	}
	goodbye := err == byeError(byeLeaving)
	switch {
	case c.bye == byeFull || err == byeError(byeFull):
		n.moveLocked(ct, away, nil)
		ct.wait(retryMost, retryMost)
		ct.beaconAt = now // for a beacon that comes after none was believed for long would have it dialed at once
	case (c.bye == byeIdle || err == byeError(byeIdle)) && len(n.rested) < maxConns &&
		perHost(slices.Collect(maps.Values(n.rested)))[c.addr.Addr()] < maxRestPerAddr:
		n.moveLocked(ct, resting, c.atRest())
		if c.ackedLocked() < n.history.about(n.id).last || len(ct.out) > 0 {
			n.rouseLocked(ct) // BYE crossed what we had to say
		}
	case n.ctx.Err() != nil || n.leaving && (c.parted || goodbye):
		n.moveLocked(ct, away, nil)
	case c.bye == byeSilent:
		n.loseLocked(ct, now.Sub(ct.beaconAt) > silence) // if its beacons come, only we can't reach it
	case n.history.about(c.peer).state == left || goodbye:
		n.moveLocked(ct, away, nil)
		ct.addr, ct.spare = netip.AddrPort{}, netip.AddrPort{} // nothing is there to be dialed
	default:
		n.chokedLocked(ct)
		n.moveLocked(ct, broken, nil)
		n.redialLocked(ct)
	}
}

// ---- the tick

// tick does what depends on time. It is called every tickEvery.
func (n *node) tick() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if now.Sub(n.pulse.tickAt) > 2*time.Second {
		n.pulse.wokeAt = now // we were stopped, or got no time, and can't tell who was silent meanwhile
	}
	n.watchClockLocked(now)
	for _, c := range n.conns {
		c.tickLocked(now)
		n.lastMetAt = now
	}
	if now.Sub(n.pulse.toldAt) >= time.Duration(len(n.conns))*tellGap {
		n.pulse.toldAt = now
		n.newsLocked()
	}
	for _, ct := range n.contacts {
		n.dialLocked(ct)
		if len(ct.out) > 0 {
			n.expireLocked(ct, now)
		}
	}
	for _, t := range n.targets {
		n.dialTargetLocked(t)
	}
	for _, c := range n.handshakes {
		n.beginLocked(c, now)
	}
	if now.Sub(n.pulse.relistAt) >= relistEvery {
		n.pulse.relistAt = now
		n.relistLocked(now)
	}
	if now.Sub(n.pulse.loggedAt) >= time.Minute {
		n.pulse.loggedAt = now
		clear(n.logged)
	}
	n.loaded.Broadcast()
	n.planLocked(now)
	n.findStraysLocked(now)
	n.gatherLocked(now, true)
	n.history.setDelivered(n.deliveredLocked(now))
	n.changedLocked()
	n.pulse.tickAt = now
}

// watchClockLocked notices when our own clock jumps, which it does if somebody sets
// it, and tells the user and the peers. What the clock shows is compared with the
// time that has really passed, which the monotonic part of now knows.
func (n *node) watchClockLocked(now time.Time) {
	clock := n.history.clock().Round(0) // without the monotonic part
	jump := clock.Sub(n.pulse.shown) - now.Sub(n.pulse.tickAt)
	n.pulse.shown = clock
	if jump.Abs() <= clockLimit {
		return
	}
	how, then := "went forward by %v, or the machine slept", "lines go on from there"
	if jump < 0 {
		how = "went back by %v"
	}
	if ahead := n.history.clockJumped(); ahead > 0 {
		then = fmt.Sprintf("what was said here last is stamped %v later than that, and what is said until then comes right behind it", ahead.Round(time.Second))
	}
	n.warn("the clock of this machine "+how+"; %s", jump.Abs().Round(time.Second), then)
	for _, c := range n.conns {
		c.ahead = min(max(c.ahead-jump, -clockLimit), clockLimit)
		c.telling.clock = true
		wake(c.wake)
	}
}

// newsLocked has everybody hear who came and went, and of posts that their author won't
// send them. A connection at rest is opened for that, unless its peer hears it anyway.
func (n *node) newsLocked() {
	for author, b := range n.news {
		for _, c := range n.conns {
			if b.cameWent || c.lagsLocked(author) && !slices.Contains(b.known, c) {
				c.tellLocked(author)
			}
		}
		for id, c := range n.rested {
			if b.cameWent && !c.theirs[author].addr.IsValid() || c.lagsLocked(author) {
				n.rouseLocked(n.contacts[id])
			}
		}
	}
	clear(n.news)
}

// tellLocked has the peer hear what we have of author.
func (c *conn) tellLocked(author nodeID) {
	if c.telling.authors[author] = true; len(c.telling.authors) > maxTelling {
		c.beginVectorLocked()
	}
	wake(c.wake)
}

// lagsLocked says whether the peer lacks posts of author that the author won't send it.
func (c *conn) lagsLocked(author nodeID) bool {
	t := c.theirs[author]
	return !t.addr.IsValid() && t.last < c.n.history.about(author).last
}

// ackedLocked returns the number of our newest post that the peer has.
func (c *conn) ackedLocked() uint64 { return c.theirs[c.n.id].last }

// tickLocked sends a heartbeat where nothing else was sent, has a connection without
// chat rest, ends one on which a frame is too slow, and judges a silent peer.
func (c *conn) tickLocked(now time.Time) {
	if c.bye != 0 {
		return
	}
	n := c.n
	if c.loading > 0 && n.isFullLocked(c.addr.Addr(), maxRun) { // others wait, or will soon
		if c.late += tickEvery; c.late >= slowFrame {
			c.raw.Close()
		}
	}
	ct := n.contactLocked(c.peer)
	ct.heardAt = now
	pace := heartbeat
	if now.Sub(ct.namedAt) < beaconFresh || len(n.conns) > largeRoom {
		pace = slowHeartbeat
	}
	if now.Sub(c.wroteAt) >= pace-tickEvery/2 {
		c.telling.beat = true
		wake(c.wake)
	}
	hasAll := c.ackedLocked() >= n.history.about(n.id).last
	if hasAll {
		c.ackedAt = now
	}
	if n.idle > 0 && now.Sub(c.chatAt) > n.idle && hasAll && n.isListedLocked(c.peer) {
		c.endLocked(byeIdle)
		return
	}
	quiet := min(c.raw.sinceRead(), now.Sub(n.pulse.wokeAt))
	if quiet > slowHeartbeat+heartbeat {
		n.announceSoon() // it may not hear us either
	}
	switch judged := judgeSilence(quiet, now.Sub(ct.beaconAt), now.Sub(ct.answeredAt)); {
	case judged == silent:
		c.endLocked(byeSilent)
	case judged == doubtful && ct.tie == up:
		ct.epoch++
		n.moveLocked(ct, suspect, c)
	case judged == alive && ct.tie == suspect:
		n.moveLocked(ct, up, c)
	}
}

// beat sends, together with our beacon, the heartbeats that tickLocked would send
// soon, so that an idle host is woken once for all of them.
func (n *node) beat() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.telling.beat = true
		wake(c.wake)
	}
}

// checkAddrs is told which addresses this host has, and the one that -bind names, if any.
// A connection from an address that is gone is dead, though nobody has noticed yet.
func (n *node) checkAddrs(own []netip.Addr, bind netip.Addr) {
	isGone := func(a netip.Addr) bool { return !a.IsLoopback() && !slices.Contains(own, a) }
	n.mu.Lock()
	defer n.mu.Unlock()
	if bind.IsValid() && isGone(bind) {
		n.warnOnceLocked("bind", "this machine has the address %v of -bind no longer, so nobody is heard or reached; give it that address again, or start anew with another -bind", bind)
	}
	for _, c := range n.conns {
		if isGone(addrOf(c.raw.LocalAddr()).Addr()) {
			c.raw.Close() // its reader notices, and the peer is dialed anew
		}
	}
}

// endLocked has the writer say BYE. The peer then closes the connection; if it
// doesn't, or the writer can't say it, we close it in a moment.
func (c *conn) endLocked(why byte) {
	c.bye = why
	wake(c.wake)
	time.AfterFunc(tickEvery, func() { c.raw.Close() })
}

// ---- reading

func (c *conn) readLoop() error {
	for {
		typ, size, err := readHead(c.tls, maxFrame)
		if err != nil {
			return err
		}
		c.debt = workOf(typ, size)
		posts := typ == framePosts || typ == framePart
		if size > largeFrame && !posts { // it takes no memory while its peer has to wait
			c.pay()
		}
		if posts || typ == frameDirect {
			c.n.history.waitRoom(c.n.ctx, false)
		}
		c.load(len(c.part) + size)
		body, err := readBody(c.tls, size)
		if err != nil {
			return err
		}
		if err := c.handle(typ, body); err != nil {
			if _, said := err.(byeError); !said {
				c.n.mu.Lock()
				c.endLocked(byeProtocol)
				c.n.mu.Unlock()
				io.CopyN(io.Discard, c.raw, maxFrame) // closed with something unread, TCP would drop the BYE
			}
			return err
		}
		c.load(len(c.part))
		if posts {
			c.arrived(size)
		}
		if c.raw.surplus = max(0, c.raw.surplus-2*(size+64)); c.raw.surplus > 1<<16 { // what TLS has read ahead is less
			c.debt, c.raw.surplus = c.debt+time.Duration(c.raw.surplus)*workPerFrame/16, 0
		}
		if c.debt != 0 {
			c.pay()
		}
	}
}

// load notes how many bytes of a frame, and of a run in pieces, the peer has under way. Before
// they become more than largeFrame it waits, if others of its host have some under way, until
// there is room, and what it sends stays in the network. tickLocked ends what is too slow.
func (c *conn) load(size int) {
	n, host, more := c.n, c.addr.Addr(), size-c.loading
	n.mu.Lock()
	defer n.mu.Unlock()
	for more > 0 && size > largeFrame && n.loads[host] > c.loading && c.late < slowFrame && !n.leaving && n.isFullLocked(host, more) {
		n.loaded.Wait()
	}
	n.loading, c.loading = n.loading+more, size
	if n.loads[host] += more; n.loads[host] == 0 {
		delete(n.loads, host)
	}
	if n.loaded.Signal(); size == 0 { // there may be room for the next, too
		c.late = 0
	}
}

// isFullLocked says whether there is no room for more from host: all have maxLoading under
// way, and the host has an equal part of that. So no host waits for others that hold all.
func (n *node) isFullLocked(host netip.Addr, more int) bool {
	return n.loading+more > maxLoading && n.loads[host]+more > maxLoading/max(1, len(n.loads))
}

// pay has the reader wait, if need be, for the work that the peer made us do.
func (c *conn) pay() {
	n := c.n
	for n.ctx.Err() == nil {
		n.mu.Lock()
		wait := n.work.add(&c.work, c.debt, len(n.conns), time.Now())
		n.mu.Unlock()
		if c.debt = 0; wait == 0 {
			return
		}
		n.pause(wait)
	}
}

// sliceLocked counts an entry of a frame. After workSlice of them others get the lock.
func (c *conn) sliceLocked(entry *int) {
	if *entry++; *entry%workSlice == 0 {
		c.n.mu.Unlock()
		runtime.Gosched()
		c.n.mu.Lock()
	}
}

// handle does what a frame asks for. It clears the debt if we wanted the frame.
func (c *conn) handle(typ byte, body []byte) error {
	switch typ {
	case framePosts:
		return c.handlePosts(body, 0)
	case framePart:
		return c.handlePart(body)
	case frameBye:
		why, err := parseBye(body)
		return cmp.Or(err, error(byeError(why)))
	}
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	switch typ {
	case frameHello: // the peer's clock has jumped
		x, err := parseHello(body)
		if err == nil {
			c.compareClocksLocked(x)
		}
		return err
	case frameHave:
		return c.handleHaveLocked(body)
	case frameWant:
		return c.handleWantLocked(body)
	case frameDirect:
		return c.handleDirectLocked(body)
	case frameSeen:
		return c.handleSeenLocked(body)
	case frameGot:
		return c.handleGotLocked(body)
	}
	return nil // a later version's
}

// arrived counts bytes of posts that came. The peer hears the sum, so that it knows
// how much it may have under way. The printer, which add has woken, runs first: a
// line would wait for the 40 µs that sending takes, as the latency figure shows, and
// one that is typed would wait until many signatures are verified.
func (c *conn) arrived(size int) {
	runtime.Gosched()
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.telling.got = true
	c.telling.arrived += int64(size)
	wake(c.wake)
}

// handlePart takes a piece of a run of posts.
func (c *conn) handlePart(body []byte) error {
	piece, more, err := parsePart(body)
	if c.part = append(c.part, piece...); err != nil || len(c.part) > maxRun {
		return cmp.Or(err, fmt.Errorf("pieces of %d bytes, limit %d", len(c.part), maxRun))
	}
	if !more {
		run := c.part
		c.part = nil
		c.debt = workOf(framePosts, len(run))
		return c.handlePosts(run, len(run)-len(piece))
	}
	n, author := c.n, (&fields{b: c.part}).id()
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.sources[author]; author == c.peer || s != nil && s.from == c {
		if s != nil && s.from == c {
			s.since = time.Now()
		}
		c.debt = max(0, c.debt-10*workPerText*time.Duration(len(piece))) // many small ones take long
		c.served.bytes += int64(len(piece))
		n.gather.came(len(piece), time.Now())
	}
	return nil
}

// handlePosts takes a run of posts, of which so many bytes came in pieces that were counted.
// If the author sends it, the connection proves who said it; else the last signature does.
func (c *conn) handlePosts(body []byte, counted int) error {
	n := c.n
	author, run, err := parseRun(body)
	if err != nil {
		return err
	}
	own, last := author == c.peer, &run[len(run)-1]
	if !own && !last.verify(author) {
		return fmt.Errorf("post %d of %v has a bad signature", last.number, author)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sources[author]
	serves := s != nil && s.from == c
	if c.parted || !own && !serves {
		return nil // it was sent before the peer heard that we leave, or want no more
	}
	next, claimed := n.history.about(author).last+1, c.theirs[author]
	c.served.bytes += int64(len(body) - counted)
	if own && run[0].number > max(next, c.vector) {
		if n.history.showEarly(author, run) { // it was said since we met, and the peer sends it ahead of what was said before
			n.lackLocked(author)
			c.debt = 0
		}
		return nil
	}
	if run[0].number > next && claimed.first <= next && claimed.last >= next {
		return fmt.Errorf("post %d of %v is left out", next, author)
	}
	count, err := n.history.add(author, run, !own, serves && s.over)
	switch {
	case err == errGap:
		n.lackLocked(author)
	case err == errFork:
		n.warnOnceLocked("contradiction "+c.addr.Addr().String(), "%s contradicts what it signed before; nothing more is taken from it", n.label(author))
		if own {
			return err
		}
	case own:
		c.telling.authors[author] = true // this acknowledges the posts, including those that we had from somebody else
	}
	if count > 0 {
		n.tookLocked(c, author, last, count, len(body)-counted)
	}
	return nil
}

// tookLocked does what follows from having taken count posts of author up to last, of
// about so many bytes that were not counted yet, from the peer of c.
func (n *node) tookLocked(c *conn, author nodeID, last *post, count, bytes int) {
	now := time.Now()
	c.chatAt, c.debt = now, 0
	if t, ok := c.theirs[author]; ok || author == c.peer {
		if t.stalls = 0; author == c.peer {
			t.span = span{max(t.first, 1), last.number, last.link.mark()}
		}
		c.theirs[author] = t
	}
	if s := n.sources[author]; s != nil && s.from == c {
		s.since, s.over = now, false
		for _, x := range s.waiting {
			n.sawLocked(c, x)
		}
		s.waiting = nil
	}
	if l, ok := n.lacking[author]; ok {
		l.took = now
		n.lacking[author] = l
	}
	n.relayLocked(author)
	n.news[author] = n.news[author] // adds an empty bulletin if there is none
	n.tidyLocked(author, false)
	if author != c.peer {
		c.debt -= workPerEntry + workPerClaim
		n.forgetSourceLocked(author)
	}
	if awaited := n.history.awaited(author); last.number-uint64(count) < awaited {
		n.gather.came(bytes, now)
		if last.number >= awaited {
			n.gatherLocked(now, false)
		}
	}
}

// relayLocked has all who get author's feed hear what is new of it. Everybody gets ours.
func (n *node) relayLocked(author nodeID) {
	for _, c := range n.conns {
		c.stirLocked(author)
	}
	for id, c := range n.rested {
		if author == n.id || c.subs[author] != nil {
			n.rouseLocked(n.contacts[id])
		}
	}
}

// stirLocked has the writer of c look for posts of author, if the peer gets that feed.
func (c *conn) stirLocked(author nodeID) {
	if c.subs[author] != nil {
		c.stirred[author] = true
		wake(c.wake)
	}
}

// handleHaveLocked takes the peer's word on what it has. The peer needn't pay for a
// mere acknowledgement of what we said.
func (c *conn) handleHaveLocked(body []byte) error {
	n := c.n
	entries, acked := 0, c.ackedLocked()
	flags, taken, err := parseHave(body, func(author nodeID, s span, addr netip.AddrPort) {
		c.sliceLocked(&entries)
		n.hasLocked(c, author, s, addr)
	})
	if err != nil {
		return err
	}
	ct := n.contactLocked(c.peer)
	waiting := len(ct.out)
	ct.out = slices.DeleteFunc(ct.out, func(o *outgoing) bool { return o.number <= taken })
	if len(ct.out) < waiting {
		n.takenAt = time.Now()
		n.changedLocked()
	}
	if entries <= 1 && (c.ackedLocked() > acked || len(ct.out) < waiting) {
		c.debt = 0
	}
	if c.bye == byeLeaving {
		wake(c.wake) // it may have waited for this
	}
	if flags&(haveComplete|havePart) != 0 {
		c.debt += time.Duration(max(0, len(c.theirs)-8*entries)) * workPerEntry // an end has us look at all claims
		c.more, c.toldAll = flags&havePart != 0, flags&haveComplete != 0
		c.vectorCameLocked(!c.firstPart)
	}
	if t := &c.telling; flags&haveGoOn != 0 && !t.asked && t.flag == 0 {
		if t.asked = true; t.after == (nodeID{}) {
			c.beginVectorLocked()
		}
		wake(c.wake)
	}
	return nil
}

// hasLocked takes the peer's word that it has s of author, and is connected with it at addr.
func (n *node) hasLocked(c *conn, author nodeID, s span, addr netip.AddrPort) {
	had, known := c.theirs[author]
	if lacksZone(addr.Addr()) { // we suppose that it is on the link on which we reach the peer
		addr = netip.AddrPortFrom(addr.Addr().WithZone(c.addr.Addr().Zone()), addr.Port())
	}
	if author == n.id {
		s.last = max(had.last, min(s.last, n.history.about(n.id).last)) // nobody can have more than we said, or less than it had
		c.theirs[author] = claim{span: s}
		if s.last > had.last {
			c.ackedAt, c.flow.acked = time.Now(), c.flow.arrived
			if n.bestAck < n.history.about(n.id).last {
				n.takenAt = c.ackedAt
			}
			n.bestAck = max(n.bestAck, s.last)
			n.history.setDelivered(n.deliveredLocked(c.ackedAt))
			n.changedLocked()
		}
		return
	}
	if addr.IsValid() && !had.addr.IsValid() {
		had.since = time.Now().Unix()
	}
	mine := n.history.about(author)
	if mine.last > 0 && mine.last == s.last && mine.link.mark() != s.mark {
		n.warnOnceLocked("fork "+c.addr.Addr().String(), "%s says that %s signed two different histories; this node keeps the one it has",
			n.label(c.peer), n.label(author))
	}
	reached, unseen := n.reachedLocked(author).IsValid(), mine.state == present // it may have been lost while we were cut off
	news := s.last > mine.last || !reached && (addr != had.addr || unseen)
	if !news && !addr.IsValid() && author != c.peer { // we have no use for it
		delete(c.theirs, author)
		return
	}
	if !known && author != c.peer && len(c.theirs)-len(n.conns) >= fewClaims && c.spareLocked() <= 0 {
		c.dropped = true
		return
	}
	c.theirs[author] = claim{s, addr, had.since, had.stalls} // repeating a claim doesn't have it asked more often
	if news {
		n.lackLocked(author)
		c.debt += workPerClaim
	}
	if !addr.IsValid() {
		n.strayLocked(c, author, had)
	}
	switch {
	case addr == had.addr:
	case !addr.IsValid() && c.lagsLocked(author):
		c.tellLocked(author) // for the author sends the peer no more posts
	case addr.IsValid() && !reached:
		n.toldLocked(author, c, addr)
	}
}

// spareLocked returns for how many more claims of the peer, if it has fewClaims, there is
// room. As many as there are peers don't count: it tells where it is connected with each.
func (c *conn) spareLocked() int {
	peers, all := len(c.n.conns), 0
	for _, o := range c.n.conns {
		all += max(0, len(o.theirs)-peers)
	}
	return min(mostClaims-(len(c.theirs)-peers), maxClaims-all)
}

// askOnLocked has the peer go on with its vector, as soon as there is room for
// more; or begin anew, where there was none for something in it.
func (c *conn) askOnLocked() {
	if (c.more || c.dropped && c.toldAll) && (c.spareLocked() >= vectorPart || len(c.theirs) <= len(c.n.conns)) {
		c.dropped = c.dropped && !c.toldAll
		c.more, c.toldAll = false, false
		c.telling.goOn = true
		wake(c.wake)
	}
}

// vectorCameLocked is called when the peer's vector, or a part of it, has come. The first
// part tells where to begin to send our own feed. The peer becomes the source of its
// own feed, unless it has dropped the posts that we lack next: then it has to be asked
// like others. A newcomer knows from the vector what to wait for.
func (c *conn) vectorCameLocked(first bool) {
	n := c.n
	if first {
		c.firstPart, c.vector = true, c.theirs[c.peer].last
		has := c.theirs[n.id].last
		own := &sub{author: n.id, next: has + 1}
		if c.subs[n.id] = own; has == 0 {
			own.early = c.base
		}
		c.stirLocked(n.id)
		theirs := offer{claim: c.theirs[c.peer], isAuthor: true}
		if theirs.help(n.history.about(c.peer).last) != hasLater {
			n.dropSourceLocked(c.peer)
			n.sources[c.peer] = &source{from: c, since: time.Now()}
		}
		n.lackLocked(c.peer)
	}
	now, entries := time.Now(), 0
	for author, s := range c.theirs {
		c.sliceLocked(&entries)
		itself := n.conns[author]
		if author != n.id && (author == c.peer || itself == nil || !itself.firstPart) {
			n.history.await(author, s.last, author == c.peer)
		}
		if l, ok := n.lacking[author]; ok {
			n.decideLocked(author, l, now)
		}
	}
	c.askOnLocked()
	n.gatherLocked(now, false)
	n.changedLocked()
}

// handleGotLocked takes the peer's word on what has arrived.
func (c *conn) handleGotLocked(body []byte) error {
	n, now, before := c.n, time.Now(), c.flow.arrived
	arrived, err := parseGot(body)
	if c.flow.ack(arrived, now) {
		wake(c.wake)
	}
	if c.flow.arrived-before >= signatureSize { // no post is shorter
		c.debt = 0
	}
	next, _ := n.history.posts(n.id, c.ackedLocked()+1, 0)
	if c.flow.arrived/progress > before/progress && len(next) > 0 && c.flow.arrived-c.flow.acked <= 4*int64(len(next[0].sealed)) {
		c.ackedAt = now // a post that takes long arrives at least in part, and what goes beside it
		if n.bestAck < n.history.about(n.id).last {
			n.takenAt = now
		}
	}
	return err
}

func (c *conn) handleWantLocked(body []byte) error {
	entries := 0
	err := parseWant(body, func(author nodeID, w want) {
		c.sliceLocked(&entries)
		delete(c.subs, author)
		if w.from == 0 || len(c.subs) >= maxSubs {
			return // the peer gets no answer, and asks again later if it still wants the feed
		}
		c.subs[author] = &sub{author: author, next: w.from, over: w.over}
		c.stirLocked(author)
		if s := c.n.history.span(author); w.from < s.first || w.from > s.last {
			c.tellLocked(author) // the peer may think that we still have what we dropped
		}
	})
	wake(c.wake)
	return err
}

func (c *conn) handleSeenLocked(body []byte) error {
	n := c.n
	x, err := parseSeen(body)
	s, early := n.sources[x.author], n.history.about(x.author).last == 0
	switch {
	case err != nil || s == nil || s.from != c || n.conns[x.author] != nil || early && (len(s.waiting) >= maxWaiting || len(s.waiting) > 0 && len(n.sources) > maxSources): // it is passed over
	case early:
		s.waiting = append(s.waiting, x)
		c.debt = 0
	case n.sawLocked(c, x):
		c.debt = 0 // we asked for the feed, and what an author's sightings may cost is bounded
	}
	return err
}

func (c *conn) handleDirectLocked(body []byte) error {
	x, err := parseDirect(body)
	if err != nil || c.parted { // no acknowledgement goes out behind our BYE
		return err
	}
	if ct := c.n.contactLocked(c.peer); x.number > ct.taken { // or else it was taken already
		ct.taken = x.number
		c.n.history.note(c.peer, post{kind: kindDirectFrom, time: x.time, addr: c.addr, text: x.text})
	}
	c.telling.beat, c.chatAt = true, time.Now() // the HAVE acknowledges it
	wake(c.wake)
	return nil
}

// ---- writing

// writeLoop sends first, and then whatever is to be sent, until it has sent BYE. The
// peer closes the connection when it has heard that; or else endLocked, or the node's end.
func (c *conn) writeLoop(ctx context.Context, first []byte) {
	for b, bye := first, byte(0); bye == 0; {
		if b, bye = c.compose(b); len(b) == 0 {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		c.n.writing.Add(int64(len(b)))
		_, err := c.tls.Write(b)
		if c.n.writing.Add(int64(-len(b))); err != nil {
			c.raw.Close() // the reader notices, and tells the node
			return
		}
		if (len(b) == bareHave || c.rest > 0) && cap(b) > maxIdle {
			b = nil // so a connection that is idle, or has to wait, holds no large buffer
		}
		b = b[:0]
		if c.rest > 0 { // those that rest go on together, since to wake takes us as long as a few writes
			c.n.pause(time.Until(time.Now().Add(c.rest + writeStep).Truncate(writeStep)))
		}
	}
}

// compose appends what is to be sent next: the control frames that are due, as many posts
// as the flow allows, and then the direct messages that were not sent on c yet; a later
// line overtakes them by one write at most. If it ends with BYE, it returns the reason.
// When we leave, that waits until the peer has acknowledged all, or wants no more of it.
func (c *conn) compose(b []byte) ([]byte, byte) {
	n := c.n
	n.mu.Lock()
	b = c.controlLocked(b)
	bye, ready, announced := c.bye, c.firstPart && n.conns[c.peer] == c, !c.telling.asked && c.telling.flag == 0
	own := c.subs[n.id]
	run, room, slow := c.flow.run(), c.flow.room(), c.flow.isSlow(time.Now())
	checks, mayCheck := 0, mostChecks-c.flow.checks
	if c.due = c.due[:0]; announced && room > 0 && mayCheck > 0 { // posts come behind the vector that announces them
		c.due = n.history.due(c.due, c.subs, c.stirred, c.base)
	} else if announced { // what others said has to wait, which may be thousands of feeds
		c.due = n.history.due(c.due, c.subs, map[nodeID]bool{n.id: true}, c.base)
	}
	n.mu.Unlock()
	if bye != 0 && bye != byeLeaving {
		return appendBye(b, bye), bye
	}
	if n.writing.Load() > maxWriting { // what many don't read takes little
		run = min(run, smallRun)
	}
	c.posted = 0
	for _, s := range c.due {
		most, posted := min(room, run), c.posted
		if s == own && s.next > c.base && room > -run { // what we say goes beyond the window, but by one run at most
			most = run
		}
		if posted >= most || s != own && checks >= mayCheck {
			continue
		}
		if b = c.appendPosts(b, s, run); s != own && c.posted > posted {
			checks++
		}
	}
	if len(c.bulk) > 0 && c.posted < min(room, run) {
		piece := c.bulk[:min(run, len(c.bulk))]
		c.bulk = c.bulk[len(piece):]
		c.posted += 1 + len(piece)
		b = appendPart(b, piece, len(c.bulk) > 0)
	}
	behind := own != nil && (own.next <= c.base || len(c.bulk) > 0 && c.bulkOf == n.id)
	if behind && slow && own.early > 0 && room > -run { // as above
		b = c.appendEarly(b, own, run)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	c.flow.send(c.posted, checks, now)
	out := n.contactLocked(c.peer).out
	for _, o := range out {
		if ready && o.on != c { // a connection that another has replaced says nothing more
			o.on, c.chatAt = c, now
			b = appendDirect(b, o.direct)
		}
	}
	if bye == byeLeaving && ready && announced && len(b)+len(c.stirred)+len(c.bulk)+len(out) == 0 && (own == nil || c.ackedLocked() == n.history.about(n.id).last) {
		c.parted = true
		return appendBye(b, bye), bye
	}
	c.chargeLocked(len(b), now)
	return b, 0
}

// chargeLocked notes that size bytes are about to be written, and what they cost.
func (c *conn) chargeLocked(size int, now time.Time) {
	n, addr := c.n, c.addr.Addr()
	if c.rest = 0; size > 0 {
		c.wroteAt = now
	}
	if size > 0 && size < smallRun { // a host that has many connections gets what is said in few writes, a little later
		c.rest = min(n.writes.count(addr, workPerWrite, now), tickEvery-writeStep)
	}
	if c.posted == 0 {
		return
	}
	c.chatAt = now
	work, host := time.Duration(c.posted)*workPerByte, n.work.hosts[addr]
	if c.flow.sent > n.history.total() { // the peer asked again for what it got already, and gets it in small runs, which cost more
		n.work.add(&c.work, 2*work, len(n.conns), now)
	} else if c.flow.sent <= c.held && host != nil { // who fetches a history time and again waits to connect
		n.work.add(host, work, len(n.work.hosts), now)
	}
}

// controlLocked appends the frames that are due, other than those with messages.
func (c *conn) controlLocked(b []byte) []byte {
	t := &c.telling
	if t.clock {
		b = c.n.appendHello(b, 0)
	}
	if t.got {
		b = appendGot(b, t.arrived)
	}
	t.clock, t.got = false, false
	if t.beat || t.asked || t.flag != 0 || t.goOn || len(t.authors) > 0 {
		b = c.appendHaveLocked(b)
	}
	if len(c.wants) > 0 {
		start := len(b)
		b = beginFrame(b, frameWant)
		for author, from := range c.wants {
			if len(b)-start > maxRun {
				break
			}
			b = appendWantEntry(b, author, from)
			delete(c.wants, author)
		}
		b = endFrame(b, start)
	}
	return b
}

// appendHaveLocked appends a HAVE with as much of what the peer is to hear as fits.
func (c *conn) appendHaveLocked(b []byte) []byte {
	n, t, start := c.n, &c.telling, len(b)
	if t.asked { // for the next part of our vector, which the peer has to pay for
		part, more := n.history.authors(t.after, vectorPart)
		for _, author := range part {
			t.authors[author], t.after = true, author
		}
		if t.asked, t.flag = false, havePart; !more {
			t.after, t.flag = nodeID{}, haveComplete
		}
		n.work.add(&c.work, time.Duration(len(part))*workPerEntry, len(n.conns), time.Now())
	}
	b = beginHave(b, n.contactLocked(c.peer).taken)
	for author := range t.authors {
		if len(b)-start > maxHave {
			break
		}
		s := n.history.span(author)
		if author == c.peer && s.last == 0 { // acknowledge its posts, although keep has dropped them
			known := n.history.about(author)
			s = span{known.last, known.last, known.link.mark()}
		}
		b = appendHaveEntry(b, author, s, n.reachedLocked(author))
		delete(t.authors, author)
	}
	var flags byte
	if len(t.authors) == 0 {
		t.authors = map[nodeID]bool{} // for the old one doesn't shrink
		flags, t.flag = t.flag, 0
	}
	if t.goOn {
		flags |= haveGoOn
	}
	t.beat, t.goOn = false, false
	return endHave(b, start, flags)
}

// appendPosts appends the next posts for s, in a run of about size bytes. The run ends
// with the last post whose signature verifies. A single post may be larger than size; one
// of more than twice that is put into bulk.
func (c *conn) appendPosts(b []byte, s *sub, size int) []byte {
	n, author := c.n, s.author
	for _, e := range n.history.sightings(author, s.notes) { // ahead of the posts, since a newcomer waits only for these
		p := e.content()
		b = appendSeen(b, sighting{author, e.kind, e.time, p.name, p.addr})
		s.notes = e.seq
	}
	events, first := n.history.posts(author, s.next, size)
	if len(events) == 0 || len(c.bulk) > 0 && (author == c.bulkOf || len(events[0].sealed) > size) {
		return b // or it has to wait until bulk is sent
	}
	count := proven(len(events), func(i int) bool {
		n.mu.Lock() // an author who doesn't sign has us look at many, but at few in a second
		may := i == len(events)-1 || events[i].signature.Load() != 0 || n.checks.admit(netip.Addr{}, time.Now())
		n.mu.Unlock()
		return may && events[i].isSigned()
	})
	missing := first > s.next && !s.over // we dropped them for keep; the peer may find them elsewhere
	switch {
	case missing:
	case count == 0:
		n.logOnce("unsigned "+author.String(), "%v sent posts that it did not sign", author)
	default:
		b = c.appendRun(b, author, events[:count], size)
		s.next, s.over = first+uint64(count), false
		if author == n.id || events[count-1].kind != kindLeave {
			return b // for more may follow
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if missing {
		c.tellLocked(author)
	}
	if c.subs[author] == s { // unless the peer has asked anew
		delete(c.subs, author)
	}
	return b
}

// appendEarly appends what we said since the peer came, ahead of older posts that it
// still lacks, so that it hears at once what is said. In its turn it is sent again.
func (c *conn) appendEarly(b []byte, own *sub, size int) []byte {
	events, first := c.n.history.posts(own.author, own.early+1, size)
	if len(events) == 0 || len(events[0].sealed) > size || first+uint64(len(events)) <= c.n.history.about(own.author).last {
		return b // there is too much to be sent twice
	}
	own.early = first + uint64(len(events)) - 1
	return c.appendRun(b, own.author, events, size)
}

// appendRun appends events as a POSTS frame. A post that is far larger than size goes
// in pieces, as other frames shall not wait for all of it: bulk is what follows its head.
func (c *conn) appendRun(b []byte, author nodeID, events []*event, size int) []byte {
	if e := events[0]; len(e.sealed) > 2*size {
		c.bulk, c.bulkOf = e.sealed, author
		head := appendRunHead(author[:], e.sealed)
		c.posted += 1 + len(head)
		return appendPart(b, head, true)
	}
	start := len(b)
	b = append(beginFrame(b, framePosts), author[:]...)
	for _, e := range events {
		b = appendRunEntry(b, e.sealed)
	}
	c.posted += len(b) - start - 5
	return endFrame(b, start)
}

// ---- what we say

// say posts something of our own. The caller holds no lock.
func (n *node) say(kind byte, text []byte) {
	n.history.say(kind, text)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relayLocked(n.id)
}

// sendDirect sends text to a node that was connected or at rest, and shows it as sent. It
// fails if too much waits for that node, or the text is too long.
func (n *node) sendDirect(to member, text []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ct, size := n.contactLocked(to.id), len(text)
	for _, o := range ct.out {
		size += len(o.text)
	}
	switch {
	case size > maxOutbox:
		return fmt.Errorf("%s acknowledges nothing; try again later", to.name)
	case len(to.name)+1+len(text) > maxText: // the history notes both in one text
		return fmt.Errorf("a direct message of %d bytes is too long; send it in two", len(text))
	}
	text, at := slices.Clone(text), n.history.now()
	ct.sent = max(ct.sent+1, uint64(at)) // so that it grows, too, where ct was forgotten and made again
	ct.out = append(ct.out, &outgoing{direct: direct{ct.sent, at, text}, deadline: time.Now().Add(directPatience)})
	n.history.note(to.id, post{kind: kindDirectTo, time: at, name: []byte(n.myName()), addr: to.addr, text: slices.Concat([]byte(to.name), []byte{'\n'}, text)})
	if c := n.conns[to.id]; c != nil {
		wake(c.wake)
	}
	n.rouseLocked(ct)
	return nil
}

// expireLocked gives up, and says so, direct messages to ct that come too late for it.
func (n *node) expireLocked(ct *contact, now time.Time) {
	gone := ct.conn == nil && n.history.about(ct.id).state == left // until then it may still acknowledge
	ct.out = slices.DeleteFunc(ct.out, func(o *outgoing) bool {
		if now.Before(o.deadline) && !gone {
			return false
		}
		n.undelivered++
		what := "could not be delivered: %.60q; send it again when it is back"
		if gone {
			what = "could not be delivered: %.60q; it has left"
		} else if o.on != nil {
			what = "was not acknowledged: %.60q; it may still arrive"
		}
		n.warn("a direct message to %s "+what, n.label(ct.id), o.text)
		return true
	})
}

// ---- waiting to be heard

// deliveredLocked returns up to which number our posts were delivered: no peer still
// lacks one that was said since it came. Peers that acknowledge nothing don't count.
// If nobody has been connected for patience, all posts count as delivered.
func (n *node) deliveredLocked(now time.Time) uint64 {
	if len(n.conns) == 0 && now.Sub(n.lastMetAt) < n.patience {
		return n.bestAck
	}
	number := n.history.about(n.id).last
	for _, c := range n.conns {
		if now.Sub(c.ackedAt) < unresponsive {
			number = min(number, max(c.ackedLocked(), c.base))
		}
	}
	return number
}

// ---- the connection underneath

// A meter is a network connection that knows for how long no byte has come. So a
// large frame on a slow link doesn't look like silence.
type meter struct {
	net.Conn
	start   time.Time
	reading atomic.Int64 // since when a Read waits, ns since start; 0: none does
	surplus int          // bytes beyond what the frames that came should take, in records that hold next to nothing; the reader's alone
}

func (m *meter) Read(b []byte) (int, error) {
	m.reading.Store(max(1, int64(time.Since(m.start))))
	defer m.reading.Store(0)
	n, err := m.Conn.Read(b)
	m.surplus += n
	return n, err
}

// sinceRead returns for how long a Read has waited without getting a byte. It is 0
// while nobody reads, because then we can't tell whether the peer is silent.
func (m *meter) sinceRead() time.Duration {
	if began := m.reading.Load(); began > 0 {
		return time.Since(m.start) - time.Duration(began)
	}
	return 0
}
