package main

// This file finds the other nodes of the network, is found by them, and decides
// whom to dial and when.
//
// A node says where it is by a beacon: a small sealed UDP packet to the
// broadcast address of every interface, and to that of the loopback network, so
// that the nodes of one host always meet. Beacons get lost; nothing depends on
// one of them, only on there being another. Interfaces come and go, so they
// are asked anew each time.
//
// We hear of a node by its beacons, by a peer that is connected with it, or from
// the user, who names an address (a target). What is known of a node is its
// contact: its address, when it was last heard of, and its tie, which says
// how we stand with it. Whatever changes a contact calls dialLocked, as the tick
// does; that dials a node when its tie and its route say that this is due. A node
// that was never met, which anybody can make up, has to pass a gate first.
//
// peer.go makes a connection of what was dialed, and moves the tie when one is
// registered or ends. What is said on connections is no business of this file.

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	beaconEvery   = 2 * time.Second
	beaconsPerSec = 25                   // of all nodes of a room together: in a large room each sends fewer
	answerGap     = 5 * time.Millisecond // for each node of the room, from a beacon to one that announceSoon asks for
	answerMost    = 1 * time.Second
	retryGap      = 200 * time.Millisecond // after an error of the socket
	readBuffer    = 1 << 20                // bytes; a burst of a few thousand beacons

	maxChecks        = 300 // signatures of beacons that are checked in a second: 4 % of a core
	maxChecksPerAddr = 200 // of these for one address: a host may be a room of so many
	fewChecks        = 10  // that an address gets though maxChecks are used up
)

var localNet = netip.MustParsePrefix("127.0.0.1/8")

type discovery struct {
	bind    netip.Addr // the one address to announce from; invalid: all
	port    uint16
	key     *roomKey
	hear    *net.UDPConn
	speak   *net.UDPConn
	soon    chan struct{}         // receives when a beacon is wanted soon
	counter uint64                // of the last beacon; used by the announcer alone
	local   atomic.Pointer[local] // as of the last beacon
}

// A local is the addresses of this host: those of interfaces that are up.
type local struct {
	own  []netip.Addr   // all of them
	nets []netip.Prefix // the IPv4 networks to announce to, each with our address there
}

// openDiscovery opens the sockets of the room at the given port.
func openDiscovery(bind netip.Addr, port uint16, key *roomKey) (*discovery, error) {
	// All nodes of a host share this port. The standard library allows that for
	// listeners on a multicast address alone: it binds them to all addresses. No
	// group is joined.
	hear, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 0), Port: int(port)})
	if err != nil {
		return nil, err
	}
	hear.SetReadBuffer(readBuffer) // best effort: the kernel may allow less
	d := &discovery{bind: bind, port: port, key: key, hear: hear, speak: hear, soon: make(chan struct{}, 1)}
	if bind.IsValid() { // a socket that is bound to an address hears no broadcasts, so it only speaks
		if d.speak, err = net.ListenUDP("udp4", &net.UDPAddr{IP: bind.AsSlice()}); err != nil {
			hear.Close()
			return nil, err
		}
	}
	d.counter = uint64(time.Now().UnixNano())
	d.look()
	return d, nil
}

// run announces n and listens for others until ctx ends.
func (d *discovery) run(ctx context.Context, n *node) {
	var wg sync.WaitGroup
	wg.Go(func() { d.listen(n) })
	wg.Go(func() { d.announce(ctx, n) })
	<-ctx.Done()
	d.hear.Close()
	d.speak.Close()
	wg.Wait()
}

// announceSoon asks for a beacon before the next is due.
func (d *discovery) announceSoon() { wake(d.soon) }

func (d *discovery) announce(ctx context.Context, n *node) {
	next := []time.Duration{beaconEvery / 8, 3 * beaconEvery / 8} // at 0, 0.25 and 1 s
	for {
		d.send(n)
		sent := time.Now()
		connected, heardOf := n.size()
		wait := max(beaconEvery, time.Duration(connected)*time.Second/beaconsPerSec)
		wait = wait*3/4 + rand.N(wait/2)
		if len(next) > 0 {
			wait, next = next[0], next[1:]
		}
		select {
		case <-time.After(wait):
		case <-d.soon:
			n.pause(min(time.Duration(heardOf)*answerGap, answerMost) - time.Since(sent))
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// send sends a beacon to each destination. Each has a counter of its own, so that
// a node which hears us in two ways takes neither for a replay. To sign a beacon
// takes 40 µs.
func (d *discovery) send(n *node) {
	if own := d.look(); len(own) > 0 {
		n.moved(own)
	}
	for _, to := range d.destinations() {
		d.counter++
		packet := d.key.sealBeacon(n.history.key, beacon{node: n.id, counter: d.counter, port: n.port, name: n.myName()})
		if _, err := d.speak.WriteToUDPAddrPort(packet, to); err != nil && !errors.Is(err, net.ErrClosed) {
			n.logOnce("beacon to "+to.String(), "beacon to %v: %v", to, err)
		}
	}
}

// look asks the interfaces what they have, unless none of them matters, and
// returns their addresses.
func (d *discovery) look() []netip.Addr {
	l := new(local)
	if !d.bind.IsLoopback() {
		*l = interfaces()
	}
	if d.bind.IsValid() {
		l.nets = slices.DeleteFunc(l.nets, func(p netip.Prefix) bool { return p.Addr() != d.bind })
	}
	if !d.bind.IsValid() || d.bind.IsLoopback() {
		l.nets = append(l.nets, localNet)
	}
	d.local.Store(l)
	return l.own
}

// destinations returns the broadcast addresses that we announce to.
func (d *discovery) destinations() []netip.AddrPort {
	var to []netip.AddrPort
	for _, p := range d.local.Load().nets {
		to = append(to, netip.AddrPortFrom(broadcastOf(p), d.port))
	}
	slices.SortFunc(to, netip.AddrPort.Compare)
	return slices.Compact(to)
}

// interfaces returns the addresses of this host, or none if they can't be found
// out: then the next beacon tries again.
func interfaces() (l local) {
	all, _ := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return local{}
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			l.own = append(l.own, p.Addr())
			if i.Flags&net.FlagBroadcast != 0 && p.Addr().Is4() && p.Bits() < 31 { // RFC 3021: a /31 has no broadcast address
				l.nets = append(l.nets, p)
			}
		}
	}
	return l
}

// broadcastOf returns the last address of an IPv4 network (RFC 919).
func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// ownAddr returns the address that others most likely reach us at.
func (d *discovery) ownAddr() netip.Addr {
	if d.bind.IsValid() {
		return d.bind
	}
	l := d.local.Load()
	for _, p := range l.nets {
		if p != localNet {
			return p.Addr()
		}
	}
	for _, a := range l.own {
		if a.Is4() && !a.IsLoopback() {
			return a
		}
	}
	return localNet.Addr()
}

func (d *discovery) listen(n *node) {
	packet := make([]byte, beaconSize+1) // a packet that is too long fills it
	for {
		size, from, err := d.hear.ReadFromUDPAddrPort(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			n.logOnce("hear", "listening for beacons: %v", err)
			n.pause(retryGap)
			continue
		}
		if size != beaconSize || !d.near(from.Addr()) {
			continue
		}
		x, err := d.key.openBeacon(packet[:size])
		if err != nil {
			n.logOnce("beacon from "+from.Addr().String(), "beacon from %v: of another room, or garbage", from)
			continue
		}
		n.heard(x, from.Addr())
	}
}

// near says whether a beacon from addr concerns us. If we are bound to one address,
// only those of its network do.
func (d *discovery) near(addr netip.Addr) bool {
	return !d.bind.IsValid() || slices.ContainsFunc(d.local.Load().nets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// listenTCP listens on the room's port, or if that is taken on any.
func listenTCP(bind netip.Addr, port uint16) (net.Listener, error) {
	at := &net.TCPAddr{IP: bind.AsSlice(), Port: int(port)}
	if l, err := net.ListenTCP("tcp", at); err == nil {
		return l, nil
	}
	at.Port = 0
	return net.ListenTCP("tcp", at)
}

// ---- who is there, and how to reach them

// A tie is how we stand with another node. Only moveLocked changes one, and logs
// it under -v.
//
//	tie      what it means                    and what ends it
//	away     there is no connection           up: a connection is registered
//	up       the connection stands            suspect: silent for 4 s; resting: closed by BYE idle;
//	                                          broken: it ended without a word; away: BYE leaving
//	suspect  the connection is silent: a      up: something comes, or a fresh one is registered;
//	         fresh one is dialed, and may     away: silent for 7 s, see judgeSilence, which is a
//	         replace it                       loss; else as up
//	broken   dialed again and again for 4 s   up: registered; away: it can't be had, which is a loss
//	resting  closed for lack of chat; asked   up: registered; waking: there is something to say;
//	         now and then whether it lives    away: it doesn't answer, which is a loss
//	waking   as broken, after resting         as broken
type tie byte

const (
	away tie = iota
	up
	suspect
	broken
	resting
	waking
)

func (t tie) String() string {
	return [...]string{"away", "up", "suspect", "broken", "resting", "waking"}[t]
}

// A route is an address where somebody can be dialed, and when that is due.
type route struct {
	addr    netip.AddrPort // invalid: there is none
	dialAt  time.Time      // not before
	dialing bool
	fails   int // in a row; each makes the next dial wait longer
}

// isDue says whether r may be dialed now, as far as it knows: the tie has a say
// too, in isDueLocked.
func (r *route) isDue(now time.Time) bool {
	return r.addr.IsValid() && !r.dialing && !now.Before(r.dialAt)
}

// ended notes that a dial of r has ended, with err. The next dial waits for first,
// after each failure in a row for twice as long, but never longer than most.
func (r *route) ended(err error, first, most time.Duration) {
	r.dialing = false
	if err == nil {
		r.fails = 0
	}
	r.wait(first, most)
}

func (r *route) wait(first, most time.Duration) {
	r.dialAt = time.Now().Add(min(first<<min(r.fails, 8), most))
	r.fails++
}

// A target is an address that the user named.
type target struct {
	route
	alias string // its name in the table of -peers; empty: it was given by -peer
	id    nodeID // of the node that was found there last; zero: none was
}

// A contact is what we know of another node, connected or not.
type contact struct {
	route
	mailbox
	id        nodeID
	tie       tie
	conn      *conn      // up, suspect: the connection; resting, waking: the one that was closed; else nil
	metAt     time.Time  // when it was connected for the first time; zero: never
	epoch     uint32     // of our next HELLO to it; see the rules in protocol.go
	counter   uint64     // of its newest beacon that was checked
	beaconAt  time.Time  // when that came
	namedAt   time.Time  // when a beacon in its name last came, checked or not
	reachedAt time.Time  // suspect: when somebody first answered a dial; zero: nobody did
	heardAt   time.Time  // when we were last connected, a beacon of it was checked, or a peer told of it
	teller    netip.Addr // the host of the node that last told where it is
}

func (ct *contact) isMet() bool { return !ct.metAt.IsZero() }

// A roster is who is there, and how to reach them. Guarded by node.mu.
type roster struct {
	conns    map[nodeID]*conn    // of the contacts that are up or suspect
	asleep   map[nodeID]*contact // those that rest or wake
	contacts map[nodeID]*contact // all that we know of
	targets  []*target
	strays   map[nodeID]stray // whom a peer ceased to bring, and perhaps nobody brings now
	gate     dialGate
	checks   checkBudget
}

// moveLocked changes the tie of ct, and its connection. That two nodes are
// connected, or no longer, is news for the others.
func (n *node) moveLocked(ct *contact, to tie, c *conn) {
	if ct.tie != to {
		n.logf("%v (%s): %v, was %v", ct.id, n.label(ct.id), to, ct.tie)
	}
	if before := n.reachedLocked(ct.id); c == nil && before.IsValid() || c != nil && before != c.addr {
		n.news[ct.id] = bulletin{cameWent: true}
	}
	ct.tie, ct.conn, ct.reachedAt = to, c, time.Time{}
	delete(n.conns, ct.id)
	delete(n.asleep, ct.id)
	switch to {
	case up, suspect:
		n.conns[ct.id] = c
	case resting, waking:
		n.asleep[ct.id] = ct
	}
	n.changedLocked()
}

// contactLocked returns the contact of the node, which it makes if there is none.
// If there are too many, those of nodes that we never met go.
func (n *node) contactLocked(id nodeID) *contact {
	if ct := n.contacts[id]; ct != nil {
		return ct
	}
	for other, ct := range n.contacts {
		if len(n.contacts) < maxContacts {
			break
		}
		if !ct.isMet() && !ct.dialing {
			delete(n.contacts, other)
		}
	}
	n.contacts[id] = &contact{id: id, heardAt: time.Now()}
	return n.contacts[id]
}

// reachedLocked returns where we are connected with the node; a connection that
// rests counts. It returns the zero address if we aren't.
func (n *node) reachedLocked(id nodeID) netip.AddrPort {
	if ct := n.contacts[id]; ct != nil && ct.conn != nil {
		return ct.conn.addr
	}
	return netip.AddrPort{}
}

// throughLocked returns our connection with a peer that is connected with the
// node, by its own word; nil if none is.
func (n *node) throughLocked(id nodeID) *conn {
	for _, c := range n.conns {
		if c.theirs[id].addr.IsValid() {
			return c
		}
	}
	return nil
}

// heardThroughLocked returns a connection whose peer brings us what the node says,
// being connected with it by its own word; nil if there is none. Connections that
// rest count: the peer opens them when there is something to bring.
func (n *node) heardThroughLocked(id nodeID) *conn {
	for _, c := range n.conns {
		if c.peer != id && c.theirs[id].addr.IsValid() {
			return c
		}
	}
	for _, ct := range n.asleep {
		if ct.id != id && ct.conn.theirs[id].addr.IsValid() {
			return ct.conn
		}
	}
	return nil
}

// A stray is a node that a peer was connected with, and no longer is.
type stray struct {
	by    nodeID         // the peer
	addr  netip.AddrPort // where it was connected with the node
	since time.Time
	lost  bool // the node was noted as lost for that
}

// strayLocked notes that the peer of c is not connected with author any more, or
// that we are not connected with the peer.
func (n *node) strayLocked(c *conn, author nodeID, was claim) {
	if was.addr.IsValid() && author != n.id && n.history.about(author).state == present {
		n.strays[author] = stray{by: c.peer, addr: was.addr, since: time.Now()}
	}
}

// findStraysLocked looks, at each tick, for nodes that we heard through others
// alone. When the last of these is gone, the node is lost; when somebody brings it
// again, it is back.
func (n *node) findStraysLocked(now time.Time) {
	looked := 0
	for id, s := range n.strays {
		if looked++; looked > maxStrays || n.leaving {
			return // the others wait for the next tick
		}
		state, heard := n.history.about(id).state, n.reachedLocked(id).IsValid() || n.heardThroughLocked(id) != nil
		switch {
		case s.lost && state == lost && heard:
			delete(n.strays, id)
			n.sawOwnLocked(id, post{kind: kindBack, addr: s.addr})
		case s.lost && state == lost && len(n.strays) < maxContacts:
		case s.lost || heard || state != present:
			delete(n.strays, id)
		case !n.mayReturnLocked(id, s, now.Sub(s.since)):
			n.sawOwnLocked(id, post{kind: kindLost, addr: s.addr})
			s.lost = true
			n.strays[id] = s
		}
	}
}

// mayReturnLocked says whether a node that strayed so long ago is perhaps about to
// be heard again, or its last words are still on their way.
func (n *node) mayReturnLocked(id nodeID, s stray, age time.Duration) bool {
	ct, by := n.contacts[id], n.contacts[s.by]
	_, lacking := n.lacking[id]
	return age < tickEvery || lacking && age < noProgress ||
		by != nil && (by.tie == broken || by.conn != nil && !by.conn.complete) ||
		ct != nil && (ct.tie != away || (ct.dialing || time.Since(ct.beaconAt) < beaconFresh) && age < dialTimeout)
}

// hereLocked says whether we, or a peer, are connected with the node, or hear
// its beacons.
func (n *node) hereLocked(id nodeID) bool {
	ct := n.contacts[id]
	return n.reachedLocked(id).IsValid() || ct != nil && time.Since(ct.beaconAt) < beaconFresh || n.throughLocked(id) != nil
}

// isListedLocked says whether the table of the user has the node.
func (n *node) isListedLocked(id nodeID) bool {
	return slices.ContainsFunc(n.targets, func(t *target) bool { return t.alias != "" && t.id == id })
}

// heard takes a beacon that came from the given address. Every member can make
// one in the name of another node, so nothing of it counts, its counter neither,
// before its signature was checked.
func (n *node) heard(x beacon, from netip.Addr) {
	if !n.isWorthACheck(&x, from) {
		return
	}
	if !x.verify() {
		n.logOnce("forged beacon from "+from.String(), "beacon from %v: not signed by %v", from, x.node)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	ct := n.contactLocked(x.node)
	if n.leaving || x.counter <= ct.counter {
		return
	}
	silent := time.Since(ct.beaconAt) > silence
	ct.counter, ct.beaconAt = x.counter, time.Now()
	ct.namedAt = ct.beaconAt
	if silent {
		ct.fails = 0 // a link has healed: no failure from before it makes dials wait
	}
	ct.teller = from
	n.meetLocked(ct, netip.AddrPortFrom(from, x.port), silent)
}

// isWorthACheck says whether a beacon that came from the given address would
// change anything, and may be checked. While a connection stands, all that a beacon
// does is to make our heartbeats rarer.
func (n *node) isWorthACheck(x *beacon, from netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	ct := n.contacts[x.node]
	switch {
	case x.node == n.id || n.leaving:
		return false
	case ct == nil:
		if n.gate.doubts(from) && len(n.contacts) > maxContacts/2 {
			return false // dials there failed so often of late that this one can wait
		}
	case x.counter <= ct.counter: // it came in another way already, or is a replay
		return false
	case ct.tie == up && ct.conn.raw.sinceRead() < slowHeartbeat+tickEvery:
		ct.namedAt = now
		return false
	case ct.tie == up || ct.tie == resting || ct.tie == waking: // it is a sign of life
	case ct.addr == netip.AddrPortFrom(from, x.port) && now.Sub(ct.beaconAt) < beaconEvery:
		return false
	}
	return n.checks.admit(from, now)
}

// toldLocked makes for a connection with a node that the peer of c says to be at
// addr. An address from the node's own beacons counts for more: or a peer's
// wrong word could keep two nodes apart.
func (n *node) toldLocked(id nodeID, c *conn, addr netip.AddrPort) {
	if n.contacts[id] == nil && n.gate.doubts(c.addr.Addr()) && len(n.contacts) > maxContacts/2 {
		return
	}
	ct := n.contactLocked(id)
	if ct.addr.IsValid() && time.Since(ct.beaconAt) < silence {
		addr = ct.addr
	} else {
		ct.teller = c.addr.Addr()
	}
	n.meetLocked(ct, addr, false)
}

// meetLocked makes for a connection with a node that was heard to be at addr. A
// fresh node is dialed at once by the lower ID; the higher waits for that, and
// dials after retryFirst. A node is fresh if it is new to us, if it was not heard
// of for a while, or if the caller says so, because its beacons come again though
// others told of it all the time.
func (n *node) meetLocked(ct *contact, addr netip.AddrPort, fresh bool) {
	now := time.Now()
	fresh = fresh || now.Sub(ct.heardAt) >= silence || !ct.addr.IsValid()
	ct.heardAt = now
	if ct.tie == up {
		return
	}
	ct.addr = addr
	if fresh {
		ct.dialAt = now
		if ct.id.less(n.id) {
			ct.dialAt = now.Add(retryFirst)
			n.announce() // so that the lower hears of us
		}
	}
	n.dialLocked(ct)
}

// isDueLocked says whether the node of ct is to be dialed at this moment.
func (n *node) isDueLocked(ct *contact, now time.Time) bool {
	if !ct.isDue(now) {
		return false
	}
	switch ct.tie {
	case up:
		return false
	case broken, waking:
		return true
	case resting: // as a probe: does the node still live?
		return !n.leaving && now.Sub(ct.beaconAt) >= slowHeartbeat
	}
	return !n.leaving && now.Sub(ct.heardAt) <= silence
}

// dialLocked dials the node of ct, if that is due. A node that was never met,
// which anybody can make up, has to pass the gate.
func (n *node) dialLocked(ct *contact) {
	now := time.Now()
	if !n.isDueLocked(ct, now) {
		return
	}
	host, teller, met := ct.addr.Addr(), ct.teller, ct.isMet()
	if !met && !n.gate.admit(host, teller, now) {
		return
	}
	ct.dialing = true
	addr, probe := ct.addr, ct.tie == resting
	n.wg.Go(func() {
		if met {
			n.dialContact(ct, addr, met, probe)
			return
		}
		next := sync.OnceFunc(n.dialNext)
		defer next()
		defer time.AfterFunc(dialTurn, next).Stop()
		err := n.dialContact(ct, addr, met, probe)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gate.done(host, teller, err != nil && !errors.Is(err, errDuplicate))
	})
}

// dialNext is called when a dial to a node that was never met has ended, or has
// taken dialTurn. It gives the place of that dial to others.
func (n *node) dialNext() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate.places--
	for _, ct := range n.contacts {
		if n.gate.places >= maxDials {
			return
		}
		n.dialLocked(ct)
	}
}

// dialedLocked moves the tie of ct as the end of a dial, with err, demands. Who was
// found there is found, as far as that is known.
func (n *node) dialedLocked(ct *contact, found nodeID, err error) {
	first, most := retryFirst, retryMost
	if ct.tie == resting {
		first, most = slowHeartbeat, slowHeartbeat
	}
	ct.ended(err, first, most)
	if n.ctx.Err() != nil {
		return
	}
	switch ct.tie {
	case resting, waking:
		if err != nil && min(time.Since(ct.beaconAt), time.Since(ct.conn.since)) < slowHeartbeat {
			return // it lives, but can't be dialed from here
		}
		if err != nil {
			n.loseLocked(ct, n.isGoneLocked(ct, found, err))
		} else if ct.tie == waking {
			n.redialLocked(ct) // it rested again meanwhile
		}
	case broken:
		if err != nil {
			n.loseLocked(ct, n.isGoneLocked(ct, found, err))
		} else {
			n.redialLocked(ct) // it broke again meanwhile
		}
	case suspect:
		if n.isGoneLocked(ct, found, err) && found != (nodeID{}) {
			ct.conn.raw.Close() // another one has taken its place: its reader notices, and dials anew
		}
	}
}

// isGoneLocked says whether a dial of ct that ended with err shows that its node
// is no more: its host refuses, or another node is found there, one that is new.
// Old acquaintances can share an address, where it is that of a router.
func (n *node) isGoneLocked(ct *contact, found nodeID, err error) bool {
	if err == nil || found == ct.id || found == n.id {
		return false
	}
	if found == (nodeID{}) {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	other := n.contacts[found]
	return other == nil || !other.isMet() || time.Since(other.metAt) < dialTimeout
}

// redialLocked dials ct, which is broken or waking, at once. If no connection comes
// of that, and the peer doesn't make one either, the node is lost.
func (n *node) redialLocked(ct *contact) {
	ct.dialAt = time.Time{}
	n.dialLocked(ct)
}

// rouseLocked opens the connection of ct again, if it rests.
func (n *node) rouseLocked(ct *contact) {
	if ct.tie == resting {
		n.moveLocked(ct, waking, ct.conn)
		n.redialLocked(ct)
	}
}

// dialTargetLocked dials an address that the user named, unless we are
// connected with the node that was found there.
func (n *node) dialTargetLocked(t *target) {
	if !t.isDue(time.Now()) || n.leaving || t.id == n.id {
		return
	}
	if ct := n.contacts[t.id]; ct != nil && (ct.tie == up || ct.tie == resting || ct.tie == waking) {
		return
	}
	t.dialing = true
	n.wg.Go(func() { n.dialTarget(t) })
}

// owedLocked returns the contacts that are broken or waking. What we say
// counts as heard by all only when these have it too.
func (n *node) owedLocked() (owed []*contact) {
	for _, ct := range n.contacts {
		if ct.tie == broken || ct.tie == waking {
			owed = append(owed, ct)
		}
	}
	return owed
}

// relistLocked makes for connections with the nodes that peers are connected with
// and we aren't. It forgets the contacts that nobody asks for any more.
func (n *node) relistLocked(now time.Time) {
	for id, ct := range n.contacts {
		if ct.conn != nil {
			continue
		}
		if c := n.throughLocked(id); c != nil {
			n.toldLocked(id, c, c.theirs[id].addr)
		}
		if now.Sub(ct.heardAt) < time.Minute || ct.dialing || ct.tie != away || len(ct.out) > 0 {
			continue
		}
		state, spoken := n.history.about(id).state, ct.sent+ct.taken > 0
		if !ct.isMet() || state == left || state == unknown || state == lost && !spoken && now.Sub(ct.heardAt) > forgetLost {
			delete(n.contacts, id)
			n.dropSourceLocked(id)
			n.history.forget(id)
		}
	}
}

// A dialGate bounds the dials to nodes that were never met, which anybody can make
// up: how many begin in a second, and how many are under way, in all and for each
// host. A host where such dials failed of late gets fewer, and so does one that
// told of nodes elsewhere that could not be dialed: each failure makes the next
// dial wait longer. So invented nodes don't keep real ones waiting. The zero value is ready. Guarded
// by node.mu.
type dialGate struct {
	tokens   float64   // dials that may begin at once
	filledAt time.Time // when tokens was computed
	places   int       // taken by dials in progress, each for dialTurn at most
	hosts    map[netip.Addr]*dialed
}

// A dialed is what became of the dials to one host, and to others of which it
// told.
type dialed struct {
	underWay int       // dials to it
	blame    int       // dials that failed of late
	dueAt    time.Time // no dial begins before
}

// of returns what became of the dials to host, to look at.
func (g *dialGate) of(host netip.Addr) dialed {
	if d := g.hosts[host]; d != nil {
		return *d
	}
	return dialed{}
}

// doubts says whether so many dials of late were in vain because of host that
// it need not be listened to.
func (g *dialGate) doubts(host netip.Addr) bool { return g.of(host).blame >= maxDialsPerAddr }

// admit says whether a dial to host, of which the host teller told, may begin now;
// if so, it counts it, and the dial has a place. The caller gives that up by
// dialNext, and says by done how the dial ended.
func (g *dialGate) admit(host, teller netip.Addr, now time.Time) bool {
	g.tokens = min(dialRate, g.tokens+dialRate*now.Sub(g.filledAt).Seconds())
	g.filledAt = now
	there, told := g.of(host), g.of(teller)
	spare := 0
	if there.blame+told.blame > 0 {
		spare = 2 // places, and half of the tokens, are kept for hosts without blame
	}
	if g.tokens < float64(1+spare*dialRate/4) || g.places >= maxDials-spare || there.underWay >= maxDialsPerAddr ||
		now.Before(there.dueAt) || now.Before(told.dueAt) {
		return false
	}
	g.tokens--
	g.places++
	for _, h := range []netip.Addr{host, teller} {
		d := g.touch(h)
		d.dueAt = now.Add(min(time.Duration(d.blame)*blameWait, mostBlameWait))
	}
	g.hosts[host].underWay++
	return true
}

// touch returns what became of the dials to host, to be changed.
func (g *dialGate) touch(host netip.Addr) *dialed {
	if g.hosts == nil {
		g.hosts = map[netip.Addr]*dialed{}
	}
	if g.hosts[host] == nil {
		g.hosts[host] = new(dialed)
	}
	return g.hosts[host]
}

// done notes that a dial to host, of which teller told, has ended. A host that is
// to blame itself puts none on who tells of it.
func (g *dialGate) done(host, teller netip.Addr, failed bool) {
	there, told := g.touch(host), g.touch(teller)
	there.underWay--
	if !failed {
		there.blame, told.blame = there.blame/2, told.blame/2
		return
	}
	if there.blame++; there.blame == 1 && told != there {
		told.blame++
	}
}

// forgive takes some of the blame from each host. It is called every relistEvery.
func (g *dialGate) forgive() {
	for host, d := range g.hosts {
		if d.blame = max(0, d.blame-1-d.blame/8); d.blame+d.underWay == 0 {
			delete(g.hosts, host)
		}
	}
}

// A checkBudget bounds the signatures that are checked in a second, in all and
// for beacons from one address. When others have used up maxChecks, an address still
// gets fewChecks. The zero value is ready. Guarded by node.mu.
type checkBudget struct {
	since time.Time // the second began
	all   int
	of    map[netip.Addr]int
}

// admit says whether a beacon from the given address may be checked at this
// moment, and counts it.
func (b *checkBudget) admit(from netip.Addr, now time.Time) bool {
	if now.Sub(b.since) >= time.Second {
		*b = checkBudget{since: now, of: map[netip.Addr]int{}}
	}
	of := b.of[from]
	if of >= maxChecksPerAddr || b.all >= maxChecks && of >= fewChecks || b.all >= 2*maxChecks {
		return false
	}
	b.all++
	b.of[from] = of + 1
	return true
}
