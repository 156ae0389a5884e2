package main

// This file finds the other nodes of the network, is found by them, and decides
// which node to dial and when.
//
// A node says where it is by a beacon: a small sealed UDP packet to everybody on
// the link of every interface, in IPv4 by broadcast and in IPv6 by multicast.
// Without -bind it goes to the loopback network as well, so that the nodes of one
// host meet. Beacons get lost, and nothing depends on a single one of them.
// Interfaces come and go, so they are asked anew each time, and an error on one
// doesn't stop the others.
//
// We hear of a node by its beacons, by a peer that is connected with it, when it
// dials us, or from the user, who names an address (a target). What is known of a
// node is its contact: its addresses, when it was last heard of, and its tie, which
// says how we stand with it. Each tick, and most of what makes a dial due, calls
// dialLocked, which dials a node when its tie and its route say that this is due. A
// node that was never met, which anybody can make up, has to pass a gate first.
//
// peer.go makes a connection of what was dialed, and moves the tie when one is
// registered or ends, or when nothing comes on it. What silence and a dial that
// failed mean is judged here, and so is who is there for the user. What is said on
// connections is no business of this file.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	beaconEvery   = 2 * time.Second
	beaconsPerSec = 25                     // of all nodes of a room together: in a large room each sends fewer
	answerGap     = 5 * time.Millisecond   // for each node of the room, from a beacon to one that announceSoon asks for
	answerMost    = 1 * time.Second        // the same in a large room
	spareEvery    = 8                      // of so many rounds of beacons, one has the spare ones as well
	retryGap      = 200 * time.Millisecond // after an error of the socket
	readBuffer    = 1 << 20                // bytes; a burst of a few thousand beacons
	maxNamed      = 4                      // destinations of beacons, or interfaces, that the user is told of

	zoneLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_." // in the name of an interface that is shown
)

var (
	localNet  = netip.MustParsePrefix("127.0.0.1/8")
	allNodes  = netip.MustParseAddr("ff02::1")         // RFC 4291: every IPv6 host of a link, which needn't join
	broadcast = netip.MustParseAddr("255.255.255.255") // RFC 919: every IPv4 host of a link, whatever its network
)

type discovery struct {
	bind    netip.Addr // the one address to announce from; invalid: all
	port    uint16
	key     *roomKey
	hear    []*net.UDPConn        // one for each family
	soon    chan struct{}         // receives when a beacon is wanted soon
	chorus  chan struct{}         // receives when somebody else's beacon is heard
	counter uint64                // of the last beacon; used by the announcer alone
	local   atomic.Pointer[local] // as of the last beacon
}

// A local is the addresses of this host: those of interfaces that are up.
type local struct {
	own      []netip.Addr // all of them; none if an interface could not be asked
	segments []segment    // where to announce, those of IPv6 first
	mute     []string     // interfaces without broadcasts, or in IPv6 without multicasts
}

// A segment is the link that one of our addresses is on.
type segment struct {
	prefix netip.Prefix // our address, with the size of its network
	index  int          // of the interface
	zone   string       // its name, where the address is an IPv6 one
}

// openDiscovery opens the sockets of the room at the given port. On a host without
// IPv6 there is one for IPv4 alone.
func openDiscovery(bind netip.Addr, port uint16, key *roomKey) (*discovery, error) {
	d := &discovery{bind: bind, port: port, key: key, soon: make(chan struct{}, 1), chorus: make(chan struct{}, 1)}
	var err error
	if !bind.IsValid() || bind.Is4() || bind.IsLoopback() {
		err = d.open("udp4", net.IPv4(224, 0, 0, 0))
	}
	if !bind.IsValid() || bind.Is6() && !bind.IsLoopback() {
		err6 := d.open("udp6", allNodes.AsSlice())
		if bind.IsValid() || errors.Is(err6, syscall.EADDRINUSE) {
			err = cmp.Or(err, err6)
		}
	}
	if err != nil {
		d.close()
		return nil, err
	}
	d.counter = uint64(time.Now().UnixNano())
	d.look()
	return d, nil
}

// open opens a socket that hears what comes to the room's port in one family. The standard library
// lets several processes share a UDP port in one way alone: a listener on a multicast address is
// bound to all addresses and may be reused. No group is joined; what is wanted is the sharing.
func (d *discovery) open(network string, multicast net.IP) error {
	hear, err := net.ListenUDP(network, &net.UDPAddr{IP: multicast, Port: int(d.port)})
	if err != nil {
		return err
	}
	hear.SetReadBuffer(readBuffer) // best effort: the kernel may allow less
	d.hear = append(d.hear, hear)
	return nil
}

func (d *discovery) close() {
	for _, hear := range d.hear {
		hear.Close()
	}
}

// run announces n and listens for others until ctx ends.
func (d *discovery) run(ctx context.Context, n *node) {
	var wg sync.WaitGroup
	for _, hear := range d.hear {
		wg.Go(func() { d.listen(n, hear) })
	}
	wg.Go(func() { d.announce(ctx, n) })
	<-ctx.Done()
	d.close()
	wg.Wait()
}

// announceSoon asks for a beacon before the next is due.
func (d *discovery) announceSoon() { wake(d.soon) }

func (d *discovery) announce(ctx context.Context, n *node) {
	next := []time.Duration{beaconEvery / 8, 3 * beaconEvery / 8} // at 0, 0.25 and 1 s
	asked := false
	for round := 0; ; round++ {
		d.send(n, asked || len(next) > 0 || round%spareEvery == 0 || n.misses())
		asked = false
		sent := time.Now()
		connected, heardOf := n.size()
		wait := max(beaconEvery, time.Duration(connected)*time.Second/beaconsPerSec)
		alone, together := wait*3/4, rand.N(wait/2)
		if len(next) > 0 {
			alone, together, next = next[0], 0, next[1:]
		} else {
			n.beat() // what goes out together wakes the others once
		}
		if d.waitSoon(ctx, alone, nil) || together > 0 && d.waitSoon(ctx, together, d.chorus) {
			asked = true
			n.pause(min(time.Duration(heardOf)*answerGap, answerMost) - time.Since(sent))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// waitSoon waits until the time is over, chorus receives, a beacon is asked for, or
// ctx ends. It says whether a beacon was asked for.
//
// By chorus the nodes of a room send their beacons together: each sends its own
// when three quarters of its time are over and another is heard. So an idle node
// wakes once for all of them. Waking costs it more than the work that is to be done.
func (d *discovery) waitSoon(ctx context.Context, wait time.Duration, chorus chan struct{}) bool {
	select { // a beacon that was heard before the wait doesn't count
	case <-chorus:
	default:
	}
	select {
	case <-time.After(wait):
	case <-chorus:
	case <-d.soon:
		return true
	case <-ctx.Done():
	}
	return false
}

// send sends a beacon from each of our addresses to everybody on its segment, and has
// the connections closed whose local address is gone. Each beacon has a counter of its
// own: a node that hears us in two ways doesn't take the later one for a replay. Those
// of IPv6 are sent first.
//
// A host on the same link that takes its network for another one doesn't hear a broadcast to the
// network of our address. So the same beacon is also broadcast to the whole link, after every
// network had its own: who hears both learns the address in its own network. Few nodes need these
// broadcasts, or IPv6 beside IPv4, and they treble the cost of a room at rest: they are left out
// unless spare is set. To sign a beacon takes 40 µs.
func (d *discovery) send(n *node, spare bool) {
	l := d.look()
	if len(l.own) > 0 {
		n.checkAddrs(l.own, d.bind)
	}
	packets := make([][]byte, len(l.segments))
	for i, s := range l.segments {
		if !spare && l.hasIPv4(s) {
			continue
		}
		d.counter++
		packets[i] = d.key.sealBeacon(n.history.key, beacon{node: n.id, counter: d.counter, port: n.port, name: n.myName()})
		if group := s.group(); group != broadcast {
			d.tell(n, s, packets[i], group)
		}
	}
	for i, s := range l.segments {
		if own := s.own(); own.Is4() && !own.IsLoopback() && (spare || s.group() == broadcast) {
			d.tell(n, s, packets[i], broadcast)
		}
	}
}

// hasIPv4 says whether s is an IPv6 segment whose interface has an IPv4 one too.
func (l *local) hasIPv4(s segment) bool {
	return s.own().Is6() && slices.ContainsFunc(l.segments, func(o segment) bool { return o.own().Is4() && o.index == s.index })
}

// tell sends packet to everybody in the group on the segment. The socket is bound to
// our address there. So a packet to allNodes or broadcast leaves by that interface
// also where another one is on the same network; one to the network may not.
func (d *discovery) tell(n *node, s segment, packet []byte, group netip.Addr) {
	to := netip.AddrPortFrom(group, d.port)
	err := sendFrom(s.own(), packet, to)
	if err != nil && s.zone != "" { // net may still know the interface by the number that it had a minute ago
		s.zone = strconv.Itoa(s.index)
		err = sendFrom(s.own(), packet, netip.AddrPortFrom(group.WithZone(s.zone), d.port))
	}
	if err != nil {
		n.failed("beacon to "+to.String(), err)
	}
}

func sendFrom(own netip.Addr, packet []byte, to netip.AddrPort) error {
	speak, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 0)))
	if err != nil {
		return err
	}
	defer speak.Close()
	_, err = speak.WriteToUDPAddrPort(packet, to)
	return err
}

// look asks the interfaces for their addresses. To a node that is bound to the
// loopback network they don't matter.
func (d *discovery) look() *local {
	l := new(local)
	if !d.bind.IsLoopback() {
		*l = interfaces(d.bind)
	}
	switch {
	case d.bind.IsLoopback() && d.bind.Is4():
		l.segments = []segment{{prefix: netip.PrefixFrom(d.bind, localNet.Bits())}}
	case d.bind.IsLoopback() || !d.bind.IsValid():
		l.segments = append(l.segments, segment{prefix: localNet})
	}
	d.local.Store(l)
	return l
}

// interfaces returns the addresses of this host, and the segments and mute
// interfaces of the addresses that are to be announced: bind alone, if that is
// valid. If something can't be found out now, the next beacon asks again.
func interfaces(bind netip.Addr) (l local) {
	all, err := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, failed := i.Addrs()
		err = cmp.Or(err, failed)
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			own := plainAddr(p.Addr().WithZone(i.Name))
			l.own = append(l.own, own)
			if i.Flags&net.FlagLoopback == 0 && (own == bind || !bind.IsValid() && (own.Is4() || own.IsLinkLocalUnicast())) {
				l.add(i, p, own)
			}
		}
	}
	if err != nil {
		l.own = nil
	}
	slices.SortStableFunc(l.segments, func(a, b segment) int { return cmp.Compare(b.prefix.Addr().BitLen(), a.prefix.Addr().BitLen()) })
	return l
}

// add notes that own, an address of network p on interface i, is to be announced.
func (l *local) add(i net.Interface, p netip.Prefix, own netip.Addr) {
	s := segment{prefix: p, index: i.Index}
	needs := net.FlagBroadcast
	if own.Is6() {
		s.zone = plainZone(i.Name)
		needs |= net.FlagMulticast
	}
	if i.Flags&needs == needs {
		l.segments = append(l.segments, s)
	} else if !slices.Contains(l.mute, i.Name) {
		l.mute = append(l.mute, i.Name)
	}
}

// own returns our address on the link.
func (s segment) own() netip.Addr {
	if s.prefix.Addr().IsLinkLocalUnicast() {
		return s.prefix.Addr().WithZone(s.zone)
	}
	return s.prefix.Addr()
}

// group returns the address of everybody on the link. In IPv4 that is the broadcast
// address of the network, if it has one.
func (s segment) group() netip.Addr {
	switch {
	case s.prefix.Addr().Is6():
		return allNodes.WithZone(s.zone)
	case s.prefix.Bits() >= 31: // RFC 3021
		return broadcast
	}
	b := s.prefix.Addr().As4()
	for i := s.prefix.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// plainAddr returns the one form in which an address is compared, shown and
// written: an IPv4 address as such, and a zone where it means anything.
func plainAddr(a netip.Addr) netip.Addr {
	if a = a.Unmap(); !a.IsLinkLocalUnicast() {
		return a.WithZone("")
	}
	return a.WithZone(plainZone(a.Zone()))
}

// addrOf returns the address of a TCP or UDP endpoint, or of another kind of
// endpoint that names one.
func addrOf(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(plainAddr(ap.Addr()), ap.Port())
}

// lacksZone says whether a is link-local, but doesn't say on which link.
func lacksZone(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" }

// plainZone returns the name of an interface, or its number if the name holds a
// character that would break a line of the output; "" if there is no such interface.
func plainZone(zone string) string {
	if strings.Trim(zone, zoneLetters) == "" {
		return zone
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return strconv.Itoa(i.Index)
	}
	return ""
}

// ownAddr returns the address that others most likely reach us at: that of -bind, if
// there is one. It is invalid while this host has none but its loopback.
func (d *discovery) ownAddr() netip.Addr {
	if d.bind.IsValid() {
		return d.bind
	}
	l := d.local.Load()
	var all []netip.Addr
	for _, s := range l.segments {
		all = append(all, s.own())
	}
	all = append(all, l.own...)
	for _, is := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
		if i := slices.IndexFunc(all, func(a netip.Addr) bool { return is(a) && !a.IsLoopback() }); i >= 0 {
			return all[i]
		}
	}
	return netip.Addr{}
}

// announced says in words where beacons go, and where they don't.
func (d *discovery) announced() string {
	l := d.local.Load()
	var to []string
	for _, s := range l.segments {
		to = append(to, s.group().String())
	}
	slices.Sort(to)
	text := listFew(slices.Compact(to))
	if len(l.mute) > 0 {
		text += fmt.Sprintf(" (not on %s, where broadcasts don't pass: name a node there with -peer)", listFew(l.mute))
	}
	return text
}

// listFew lists the first of all, and says how many more there are.
func listFew(all []string) string {
	if len(all) > maxNamed {
		all = append(all[:maxNamed:maxNamed], fmt.Sprintf("%d more", len(all)-maxNamed))
	}
	return strings.Join(all, ", ")
}

func (d *discovery) listen(n *node, hear *net.UDPConn) {
	packet := make([]byte, beaconSize+1) // a packet that is too long fills it
	for {
		size, from, err := hear.ReadFromUDPAddrPort(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			n.logOnce("hear", "listening for beacons: %v", err)
			n.pause(retryGap)
			continue
		}
		addr := plainAddr(from.Addr())
		if !d.near(addr) {
			continue
		}
		x, err := d.key.openBeacon(packet[:size])
		if err != nil {
			n.logOnce("beacon from "+addr.String(), "beacon from %v: of another room, or garbage", from)
			continue
		}
		if d.bind.IsLoopback() && d.bind.Is6() {
			addr = d.bind // the loopback interface carries no IPv6 multicasts, so such a node announces itself in IPv4
		}
		if x.node != n.id {
			wake(d.chorus)
		}
		n.heard(x, addr)
	}
}

// near says whether a beacon from addr concerns us. A node that is bound to one
// address listens to beacons of its network or link alone.
func (d *discovery) near(addr netip.Addr) bool {
	return !d.bind.IsValid() || slices.ContainsFunc(d.local.Load().segments, func(s segment) bool {
		if addr.IsLinkLocalUnicast() && addr.Is6() {
			return addr.Zone() == s.zone
		}
		return s.prefix.Contains(addr)
	})
}

// listenTCP listens on the room's port, or on any port if that one is taken.
func listenTCP(bind netip.Addr, port uint16) (net.Listener, error) {
	at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(bind, port))
	if l, err := net.ListenTCP("tcp", at); err == nil {
		return l, nil
	}
	at.Port = 0
	return net.ListenTCP("tcp", at)
}

// ---- who is there, and how to reach them

const (
	maxContacts = 4096            // nodes that we know of; beyond that, those that we never met are forgotten, and those that are gone
	maxStrays   = 100             // strays that are looked for at each tick
	forgetLost  = time.Hour       // so long after we last heard of it, a lost node is forgotten
	beaconFresh = 5 * time.Second // so long after a beacon its node counts as here
)

// A tie is how we stand with another node. Only moveLocked changes one, and logs it under -v.
// When silence or a dial ends a tie, loseLocked says whether the node is lost.
//
//	tie      what it means                    and what ends it
//	away     there is no connection           up: a connection is registered
//	up       the connection stands            suspect: silent for 4 s, or a new node is at its address;
//	                                          resting: ended by BYE idle, and few rest; away: by BYE full,
//	                                          or because one of us leaves; broken: it ended otherwise
//	suspect  may be dead: what we say still   up: not silent at a tick, or a fresh one is registered;
//	         goes out, a fresh one is dialed  away: silent for 7 s, see judgeSilence; else as up
//	broken   ended; a fresh one is dialed     up: registered; away: it can't be had, see dialedLocked
//	resting  closed for lack of chat; asked   up: registered; waking: there is something to say;
//	         now and then whether it lives    away: it doesn't answer and no beacon came, see dialedLocked
//	waking   dialed as broken is; it counts   up: registered; away: as resting
//	         as connected, as resting does
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
	spare   netip.AddrPort // the IPv6 address, where addr is an IPv4 one; invalid: there is none
	dialAt  time.Time      // not before
	dialing bool
	fails   int // dials in a row that failed; each makes the next one wait longer
}

// learn notes an address where we have reason to find somebody. An IPv4 address
// goes before an IPv6 address, whichever is learnt first.
func (r *route) learn(addr netip.AddrPort) {
	switch was := r.addr.Addr(); {
	case addr.Addr().Is6() && was.Is4():
		r.spare = addr
	case addr.Addr().Is4() && was.Is6():
		r.addr, r.spare = addr, r.addr
	default:
		r.addr = addr
	}
}

// lacks says whether host would be news in its family, while an address of the
// other family is known.
func (r *route) lacks(host netip.Addr) bool {
	known := r.addr.Addr()
	return known.Is4() && host.Is6() && host != r.spare.Addr() || known.Is6() && host.Is4()
}

// besides returns the address that is not addr; invalid if there is none.
func (r *route) besides(addr netip.AddrPort) netip.AddrPort {
	if r.addr == addr {
		return r.spare
	}
	return r.addr
}

// isDue says whether it is time to dial r. For a contact, isDueLocked asks its tie too.
func (r *route) isDue(now time.Time) bool {
	return r.addr.IsValid() && !r.dialing && !now.Before(r.dialAt)
}

// ended notes that a dial of r has ended, with err. The next dial waits for first,
// after each further failure in a row for twice as long, but never longer than most.
func (r *route) ended(err error, first, most time.Duration) {
	r.dialing, r.fails = false, r.fails+1
	if err == nil {
		r.fails = 0
	}
	r.wait(first, most)
}

// wait puts the next dial off, as ended does.
func (r *route) wait(first, most time.Duration) {
	r.dialAt = time.Now().Add(min(first<<min(max(r.fails-1, 0), 8), most))
}

// A target is an address that the user named.
type target struct {
	route
	alias   string    // its name in the table of -peers; empty: it was given by -peer
	met     bool      // a node of the room was found there
	refused bool      // the last dial was refused: nobody listens there
	since   time.Time // when the first dial of it ended; zero: none has
	id      nodeID    // of the node that was found there last, or that claims it, see register; zero: none
}

// A contact is what we know of another node, connected or not.
type contact struct {
	route
	mailbox
	lifeSign
	trouble
	id         nodeID
	tie        tie
	conn       *conn      // up, suspect: the connection; resting, waking: what atRest remembers of it; else nil
	metAt      time.Time  // when it was connected for the first time; zero: never
	epoch      uint32     // of our next HELLO to it; see the rules in protocol.go
	answeredAt time.Time  // suspect: when somebody first answered a dial; zero: nobody did
	heardAt    time.Time  // when we were last connected, a beacon of it was believed, or a peer told of it
	teller     netip.Addr // the host of the node that last told where it is
}

// A mailbox holds the direct messages that pass with one node.
type mailbox struct {
	out   []*outgoing // to it, not acknowledged yet
	sent  uint64      // number of the last one to it
	taken uint64      // number of the last one from it
}

type outgoing struct {
	direct
	deadline time.Time
	on       *conn // where it was sent last
}

// A lifeSign is what we know of a node from its beacons. Any member can send one in the name of
// another node, so some are believed only after a check of the signature.
type lifeSign struct {
	counter   uint64    // of the newest beacon that was checked
	unchecked *beacon   // the first one, which told where the node is; nil once a beacon was checked
	name      string    // of the node, by the newest that was believed
	beaconAt  time.Time // when the newest that was believed came
	namedAt   time.Time // when a beacon in its name was last believed, or came while its connection was lively
	skipped   uint64    // the greatest counter of unchecked beacons from its address while its connection was lively
}

// A trouble is what went wrong of late with reaching a node. The user is told of what persists.
type trouble struct {
	brief   int       // connections in a row that ended within retryFirst
	chokes  int       // connections in a row that died while posts were under way
	mute    int       // dials in a row that nobody answered, though its beacons came
	otherAt time.Time // when a dial first found another node in its place, though its beacons came; zero: none did
}

func (ct *contact) isMet() bool { return !ct.metAt.IsZero() }

// isReopening says whether the connection is being opened anew.
func (ct *contact) isReopening() bool { return ct.tie == broken || ct.tie == waking }

// A roster is who is there, and how to reach them. Guarded by node.mu.
type roster struct {
	conns    map[nodeID]*conn    // of the contacts that are up or suspect
	rested   map[nodeID]*conn    // of those that are resting or waking
	contacts map[nodeID]*contact // all that we know of
	targets  []*target
	strays   map[nodeID]stray // nodes that perhaps nobody brings us any more
	gate     dialGate
	checks   checkBudget
}

// moveLocked changes the tie of ct, and its connection. If we are connected with
// the node now, or are no longer, or at another address, the others hear of it. The
// nodes that were heard through the old connection are strays from then on.
func (n *node) moveLocked(ct *contact, to tie, c *conn) {
	if ct.tie != to {
		n.logf("%v (%s): %v, was %v", ct.id, n.label(ct.id), to, ct.tie)
	}
	if ct.conn != nil {
		for author, was := range ct.conn.theirs {
			n.strayLocked(ct.conn, author, was)
		}
	}
	before := n.reachedLocked(ct.id)
	ct.tie, ct.conn, ct.answeredAt = to, c, time.Time{}
	if n.reachedLocked(ct.id) != before {
		n.news[ct.id] = bulletin{cameWent: true}
	}
	delete(n.conns, ct.id)
	delete(n.rested, ct.id)
	switch to {
	case up, suspect:
		n.conns[ct.id] = c
	case resting, waking:
		n.rested[ct.id] = c
	}
	n.changedLocked()
}

// contactLocked returns the contact of the node, which it makes if there is none.
// Where there are too many, it forgets nodes that we never met, and if that isn't enough,
// nodes that have been gone for a minute.
func (n *node) contactLocked(id nodeID) *contact {
	if ct := n.contacts[id]; ct != nil {
		return ct
	}
	for _, met := range []bool{false, true} {
		for other, ct := range n.contacts {
			if len(n.contacts) < maxContacts {
				break
			}
			if ct.isMet() == met && (!met || ct.conn == nil && time.Since(ct.heardAt) >= time.Minute && n.history.about(other).state != present) {
				delete(n.contacts, other)
				n.history.forget(other)
			}
		}
	}
	n.contacts[id] = &contact{id: id}
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

// claimAddrLocked returns the address at which lines show the peer of c. The port of a peer that
// dialed us is its own word. Where two nodes claim one port of one address, it goes to the one
// that we dialed there, or else to the one that came first: the history shows the other one, for
// which the zero address stands, with a question mark from now on.
func (n *node) claimAddrLocked(c *conn) netip.AddrPort {
	for _, ct := range n.contacts {
		switch o := ct.conn; {
		case o == nil || o == c || o.addr != c.addr:
		case !c.dialed:
			return netip.AddrPort{}
		case !o.dialed:
			n.history.reached(o.peer, netip.AddrPort{}, "")
		}
	}
	return c.addr
}

// throughLocked returns our connection with a peer that says that it is connected with
// the node, and so brings us what the node says; nil if there is none but one. A connection
// that rests counts, for the peer opens it when it has something to bring.
func (n *node) throughLocked(id nodeID, but *conn) *conn {
	for _, conns := range []map[nodeID]*conn{n.conns, n.rested} {
		for _, c := range conns {
			if c != but && c.theirs[id].addr.IsValid() {
				return c
			}
		}
	}
	return nil
}

// A stray is a node that we may no longer hear through a peer.
type stray struct {
	by    nodeID         // the peer
	addr  netip.AddrPort // where it was connected with the node
	since time.Time
	lost  bool // the node was shown as lost for that
}

// strayLocked notes that the peer of c is no longer connected with author, or that
// we are no longer connected with the peer.
func (n *node) strayLocked(c *conn, author nodeID, was claim) {
	if was.addr.IsValid() && n.history.about(author).state == present {
		n.strays[author] = stray{by: c.peer, addr: was.addr, since: time.Now()}
	}
}

// findStraysLocked is called at each tick. A node that we heard through others alone is
// lost when the last of these is gone, and is back when somebody brings it again.
func (n *node) findStraysLocked(now time.Time) {
	looked := 0
	for id, s := range n.strays {
		if looked++; looked > maxStrays || n.leaving {
			return // the others wait for the next tick
		}
		state, heard := n.history.about(id).state, n.reachedLocked(id).IsValid() || n.throughLocked(id, nil) != nil
		switch {
		case s.lost && state == lost && heard:
			delete(n.strays, id)
			n.sawOwnLocked(id, post{kind: kindBack, addr: s.addr})
		case s.lost && state == lost && len(n.strays) < maxContacts: // it may come back
		case s.lost || heard || state != present:
			delete(n.strays, id)
		case !n.mayReturnLocked(id, s, now.Sub(s.since)):
			n.sawOwnLocked(id, post{kind: kindLost, addr: s.addr})
			s.lost = true
			n.strays[id] = s
		}
	}
}

// mayReturnLocked says whether it is too early to call a node lost that became a
// stray so long ago: it may be about to be heard again, or its leave may be on its way.
func (n *node) mayReturnLocked(id nodeID, s stray, age time.Duration) bool {
	ct, by := n.contacts[id], n.contacts[s.by]
	_, lacking := n.lacking[id]
	return age < tickEvery || lacking && age < noProgress ||
		by != nil && (by.tie == broken || by.conn != nil && !by.conn.firstPart) ||
		ct != nil && (ct.tie != away || (ct.dialing || time.Since(ct.beaconAt) < beaconFresh) && age < dialTimeout)
}

// hereLocked says whether we, or a peer, are connected with the node, or hear its beacons.
func (n *node) hereLocked(id nodeID) bool {
	ct := n.contacts[id]
	return n.reachedLocked(id).IsValid() || ct != nil && time.Since(ct.beaconAt) < beaconFresh || n.throughLocked(id, nil) != nil
}

// expectingLocked says whether some node is probably about to be connected with us,
// or a peer may still tell of one.
func (n *node) expectingLocked() bool {
	for _, c := range n.conns {
		if !c.firstPart {
			return true
		}
	}
	for id, ct := range n.contacts {
		if ct.conn == nil && n.hereLocked(id) {
			return true
		}
	}
	return len(n.handshakes) > 0
}

// delayLocked says how long to wait before asking a third for author's posts: not at
// all when we have the author's vector. An author whose vector is still to come, or
// whose beacons are heard, is waited for. But if our connection with it has ended or a
// dial of it has failed, a peer that is connected with it is asked soon.
func (n *node) delayLocked(author nodeID, now time.Time) time.Duration {
	c, ct := n.conns[author], n.contacts[author]
	switch {
	case c != nil && c.firstPart:
		return 0
	case c != nil || ct != nil && now.Sub(ct.beaconAt) < beaconFresh && !(ct.tie == away && (ct.isMet() || ct.fails > 0) && n.throughLocked(author, nil) != nil):
		return askAfterBeacon
	case n.throughLocked(author, nil) != nil:
		return askAfter
	}
	return 0
}

// misses says whether nobody is connected with us, or a node that was is silent, or
// has gone without a word.
func (n *node) misses() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, ct := range n.contacts {
		if ct.isMet() && ct.tie != up && ct.tie != resting && n.history.about(id).state != left {
			return true
		}
	}
	return len(n.conns) == 0
}

// isListedLocked says whether the table of the user has the node.
func (n *node) isListedLocked(id nodeID) bool {
	return slices.ContainsFunc(n.targets, func(t *target) bool { return t.alias != "" && t.id == id })
}

// heard takes a beacon that came from the given address. Its signature is checked
// before it changes the address of a node that we know, or counts as a sign that the
// node of a connection lives. The first beacon of a node is checked when the node is
// dialed. Most nodes are not dialed, for they dial us.
func (n *node) heard(x beacon, from netip.Addr) {
	if !n.takeUnchecked(&x, from) || !n.isSigned(&x, from) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	ct := n.contactLocked(x.node)
	ct.counter, ct.unchecked = max(ct.counter, x.counter), nil
	n.seenLocked(ct, &x, netip.AddrPortFrom(from, x.port))
}

// isSigned says whether the signature of x is good, and logs if it is not.
func (n *node) isSigned(x *beacon, from netip.Addr) bool {
	good := x.verify()
	if !good {
		n.logOnce("forged beacon from "+from.String(), "beacon from %v: not signed by %v", from, x.node)
	}
	return good
}

// takeUnchecked does with a beacon what can be done without a check of its
// signature. It says whether a check would do more, and may be made now. While a
// connection carries something, a beacon makes our heartbeats rarer, and is checked
// only if it tells an address of the other family.
func (n *node) takeUnchecked(x *beacon, from netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now, addr := time.Now(), netip.AddrPortFrom(from, x.port)
	ct := n.contacts[x.node]
	switch {
	case x.node == n.id:
		return false
	case ct == nil:
		if !n.gate.blames(from) || len(n.contacts) <= maxContacts/2 {
			ct, first := n.contactLocked(x.node), *x
			ct.unchecked = &first
			n.seenLocked(ct, x, addr)
		}
		return false
	case x.counter <= ct.counter: // another one of the same round was checked, or this is a replay
		return false
	case ct.tie == up && ct.conn.raw.sinceRead() < slowHeartbeat+tickEvery:
		ct.namedAt = now
		if from == ct.addr.Addr() {
			ct.skipped = max(ct.skipped, x.counter)
		}
		return ct.lacks(from) && n.checks.admit(from, now)
	case (ct.tie == up || ct.tie == suspect) && x.counter <= ct.skipped:
		return false // it came before, and is no sign that the node lives now
	case ct.tie == resting || ct.tie == waking: // it is a sign of life
	case ct.tie == away && ct.addr == addr && (!ct.isMet() || now.Sub(ct.beaconAt) < silence):
		n.seenLocked(ct, x, addr)
		return false
	case ct.addr == addr && now.Sub(ct.beaconAt) < beaconEvery:
		return false // one check is enough: when a switch dies, all of a room announce themselves at once
	}
	return n.checks.admit(from, now)
}

// seenLocked notes that a beacon of ct came from addr.
func (n *node) seenLocked(ct *contact, x *beacon, addr netip.AddrPort) {
	fresh := time.Since(ct.beaconAt) > silence
	ct.beaconAt = time.Now()
	ct.namedAt = ct.beaconAt
	if fresh {
		ct.fails = 0 // a link has healed: no failure from before it makes dials wait
	}
	ct.teller, ct.name = addr.Addr(), x.name
	n.meetLocked(ct, addr, fresh)
}

// isGenuine checks x, the first beacon of ct, now that the node is about to be dialed.
// If it is forged, ct forgets where the node is and that it was heard, unless another
// beacon was checked meanwhile.
func (n *node) isGenuine(ct *contact, x *beacon, from netip.Addr) bool {
	good := n.isSigned(x, from)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case ct.unchecked != x:
	case good:
		ct.unchecked, ct.counter = nil, max(ct.counter, x.counter)
	default:
		ct.unchecked, ct.addr, ct.beaconAt = nil, netip.AddrPort{}, time.Time{}
	}
	ct.dialing = good
	return good
}

// toldLocked takes the word of the peer of c that a node is at addr, and has it dialed
// if that is due. An address that its own beacons told within silence counts for more, or
// the wrong word of a peer could keep two nodes apart; so does the one at which a broken
// connection is made anew, or it would be lost if nobody were at the other. A link-local
// address is good on the peer's links. On ours it is good only if we know which it means.
func (n *node) toldLocked(id nodeID, c *conn, addr netip.AddrPort) {
	if n.contacts[id] == nil && n.gate.blames(c.addr.Addr()) && len(n.contacts) > maxContacts/2 {
		return
	}
	ct := n.contactLocked(id)
	if lacksZone(addr.Addr()) || ct.addr.IsValid() && (ct.tie != away || time.Since(ct.beaconAt) < silence) {
		addr = ct.addr
	} else {
		ct.teller = c.addr.Addr()
	}
	if !addr.IsValid() {
		ct.heardAt = time.Now()
		return
	}
	n.meetLocked(ct, addr, false)
}

// meetLocked notes that a node was heard to be at addr, and has it dialed if that is
// due. A fresh node is dialed at once by the lower ID; the higher waits for that, and
// dials after retryFirst. A node is fresh if it is new to us, was not heard of for a
// while, or has its first IPv4 address, or if the caller says so, because its beacons
// come again though others told of it all the time. While its IPv6 address alone is
// known, the dial waits for familyGap: that of IPv4 is probably about to be heard.
func (n *node) meetLocked(ct *contact, addr netip.AddrPort, fresh bool) {
	now, before := time.Now(), ct.addr.Addr()
	fresh = fresh || now.Sub(ct.heardAt) >= silence
	ct.heardAt = now
	ct.learn(addr)
	if fresh || ct.addr.Addr().Is4() != before.Is4() {
		ct.dialAt = now
		if ct.addr.Addr().Is6() {
			ct.dialAt = now.Add(familyGap)
		}
		if ct.id.less(n.id) {
			ct.dialAt = ct.dialAt.Add(retryFirst)
			n.announceSoon() // so that the lower hears of us
		}
	}
	n.dialLocked(ct)
}

// ---- dialing

const (
	dialTimeout   = 4 * time.Second        // of a dial; a broken connection that is not replaced within it is a loss
	dialJoin      = 1 * time.Second        // a dial that takes longer is joined by another attempt: its packets may have vanished
	dialAgain     = 10 * time.Millisecond  // after a broken connection could not be made again; each time twice as long, up to dialJoin
	familyGap     = 300 * time.Millisecond // before a node whose IPv6 address alone is known is dialed: quick beacons come 250 ms apart
	retryFirst    = 1 * time.Second        // after a dial that failed; each time twice as long
	retryMost     = 8 * time.Second
	retryNamed    = 2 * time.Second  // of an address that the user named; sooner at first
	muteDials     = 3                // to a node that is heard, and does not answer, before the user hears of it
	namedPatience = 10 * time.Second // before the user hears that nobody answers at an address of -peer
)

// isDueLocked says whether the node of ct is to be dialed at this moment.
func (n *node) isDueLocked(ct *contact, now time.Time) bool {
	switch {
	case !ct.isDue(now) || ct.tie == up:
		return false
	case ct.isReopening():
		return true
	case n.leaving:
		return false
	case ct.tie == resting: // as a probe, whether the node still lives
		return now.Sub(ct.beaconAt) >= slowHeartbeat
	}
	return now.Sub(ct.heardAt) <= silence
}

// dialLocked dials the node of ct, if that is due. A node that was never met has to
// pass the gate, for anybody can make one up.
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
	addr, probe, unchecked := ct.addr, ct.tie == resting, ct.unchecked
	n.wg.Go(func() {
		if met {
			n.dialContact(ct, addr, met, probe)
			return
		}
		next := sync.OnceFunc(n.dialNext)
		defer next()
		defer time.AfterFunc(dialTurn, next).Stop()
		failed := true
		if unchecked == nil || n.isGenuine(ct, unchecked, host) {
			err := n.dialContact(ct, addr, met, probe)
			failed = err != nil && !errors.Is(err, errDuplicate)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gate.done(host, teller, failed)
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

// dialContact dials the node of ct at addr, see firstOf. With probe it only makes a
// TLS handshake, to see whether the node lives. While the connection is broken or
// waking it dials again as long as somebody answers: a dying process still accepts.
func (n *node) dialContact(ct *contact, addr netip.AddrPort, met, probe bool) error {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	for wait := dialAgain; ; wait = min(2*wait, dialJoin) {
		a := n.firstOf(ctx, ct, addr, met, probe)
		n.mu.Lock()
		again := a.err != nil && a.answered && ctx.Err() == nil && ct.isReopening() && !n.isGoneLocked(ct, a)
		if !again {
			n.dialedLocked(ct, a)
		}
		n.mu.Unlock()
		if !again {
			return a.err
		}
		n.pause(wait)
	}
}

// An attempt is how one attempt to connect with a node ended.
type attempt struct {
	found    nodeID // who is there, as far as that is known
	answered bool   // somebody listens there
	err      error
}

// firstOf makes attempts to connect with the node of ct. It returns the first that
// decides the matter, or else the last one. The first is made at addr. When one
// fails, the other address of the node is tried, if it was not yet and is known by
// then. While any is under way, another one joins after each dialJoin, by turns at the
// two addresses: where packets vanish by chance, a connection waits longer and longer
// to repeat one. A node that was never met is tried once at each address.
func (n *node) firstOf(ctx context.Context, ct *contact, addr netip.AddrPort, met, probe bool) (last attempt) {
	ended, over := make(chan attempt), make(chan struct{})
	defer close(over)
	join := time.NewTicker(dialJoin)
	defer join.Stop()
	begun, underWay := map[netip.AddrPort]bool{}, 0
	begin := func(addr netip.AddrPort) {
		begun[addr], underWay = true, underWay+1
		n.wg.Go(func() {
			select {
			case ended <- n.attempt(ctx, addr, ct.id, probe):
			case <-over:
			}
		})
	}
	begin(addr)
	for turn := addr; underWay > 0; {
		failed := false
		select {
		case a := <-ended:
			a.answered = a.answered || last.answered
			if a.err == nil && a.found != ct.id {
				a.err = errors.New("another node is there") // as a probe has found
			}
			last, failed, underWay = a, true, underWay-1
		case <-join.C:
		}
		n.mu.Lock()
		settled := failed && (last.err == nil || ct.isReopening() && n.isGoneLocked(ct, last))
		other := ct.besides(turn)
		n.mu.Unlock()
		if settled {
			break
		}
		if other.IsValid() {
			turn = other
		}
		if !begun[turn] || met && !failed {
			begin(turn)
		}
	}
	return last
}

// dialedLocked moves the tie of ct according to how a dial has ended.
func (n *node) dialedLocked(ct *contact, last attempt) {
	n.wonderLocked(ct, last)
	first, most := retryFirst, retryMost
	if ct.tie == resting {
		first, most = slowHeartbeat, slowHeartbeat
	}
	ct.ended(last.err, first, most)
	switch gone := n.isGoneLocked(ct, last); {
	case n.ctx.Err() != nil || ct.tie == away || ct.tie == up:
	case ct.tie == suspect:
		if gone && last.found != (nodeID{}) {
			ct.conn.raw.Close() // another one has taken its place
		}
	case last.err == nil:
		if ct.isReopening() {
			n.redialLocked(ct) // it broke, or rested, again meanwhile
		}
	case ct.tie != broken && min(time.Since(ct.beaconAt), time.Since(ct.conn.since)) < slowHeartbeat:
		// it lives, but can't be dialed from here
	default:
		n.loseLocked(ct, gone)
	}
}

// wonderLocked tells the user, once, if a dial of ct that has ended shows something
// odd: the node is heard, and yet it can't be reached.
func (n *node) wonderLocked(ct *contact, last attempt) {
	heard := ct.tie == away && time.Since(ct.beaconAt) < silence
	if !heard || last.err == nil || last.found == ct.id {
		ct.mute, ct.otherAt = 0, time.Time{}
		return
	}
	host := ct.addr.Addr().String()
	who := cleanName([]byte(ct.name)) + "@" + host
	if !last.answered {
		ct.mute++
		switch noWay := errors.Is(last.err, syscall.ENETUNREACH); {
		case ct.mute < muteDials || noWay && n.throughLocked(ct.id, nil) != nil: // a peer brings what it says
		case noWay: // we hear broadcasts also where we have no address of the family or the network
			n.warnOnceLocked("mute "+host, "%s is heard, but this machine has no way to %s; give it an address in that network, or start a node on a machine that both can reach", who, host)
		default:
			n.warnOnceLocked("mute "+host, "%s is heard, but TCP port %d there does not answer: a firewall? let that port pass there, or port %d here: one of the two is enough",
				who, ct.addr.Port(), n.port)
		}
		return
	}
	if last.found == (nodeID{}) {
		return
	}
	if ct.otherAt.IsZero() {
		ct.otherAt = time.Now() // perhaps ct has just gone, and the other has taken its place
	} else if ct.beaconAt.After(ct.otherAt) {
		n.warnOnceLocked("twice "+host, "%s is heard, but %s is at its address: two machines seem to have the address %s; give one of them another",
			who, cmp.Or(n.history.about(last.found).name, "another node"), host)
	}
}

// isGoneLocked says whether the end of a dial of ct shows that its node is no more:
// its host refuses, or another node is found there, one that is new. Old
// acquaintances can share an address, where it is that of a router.
func (n *node) isGoneLocked(ct *contact, last attempt) bool {
	switch last.found {
	case ct.id, n.id:
		return false
	case nodeID{}:
		return errors.Is(last.err, syscall.ECONNREFUSED)
	}
	other := n.contacts[last.found]
	return other == nil || !other.isMet() || time.Since(other.metAt) < dialTimeout
}

// redialLocked dials ct, which is broken or waking, at once, or later if its last
// connections were all brief. dialedLocked says what it means if that fails.
func (n *node) redialLocked(ct *contact) {
	ct.dialAt = time.Time{}
	if ct.brief > 1 { // it answers, but no connection lasts, and dials must not keep us busy
		ct.dialAt = time.Now().Add(min(dialAgain<<min(ct.brief, 10), retryMost))
	}
	n.dialLocked(ct)
}

// rouseLocked opens the connection of ct again, if it rests.
func (n *node) rouseLocked(ct *contact) {
	if ct.tie == resting {
		n.moveLocked(ct, waking, ct.conn)
		n.redialLocked(ct)
	}
}

// atRest returns what is remembered of c, which has come to rest: what the peer wants to
// hear, that it has what we said, and its connections. Nodes of which we know nothing else
// are left out, since a peer can make up any number.
func (c *conn) atRest() *conn {
	isKnown := func(author nodeID) bool { return c.n.history.about(author).state != unknown }
	maps.DeleteFunc(c.theirs, func(author nodeID, _ claim) bool { return !isKnown(author) })
	maps.DeleteFunc(c.subs, func(author nodeID, _ *sub) bool { return !isKnown(author) })
	return &conn{n: c.n, transport: transport{peer: c.peer, addr: c.addr, since: time.Now()}, wake: make(chan struct{}, 1), // maps don't shrink, so new ones
		holdings: holdings{firstPart: true, theirs: maps.Collect(maps.All(c.theirs))}, subs: maps.Collect(maps.All(c.subs))}
}

// dialTargetLocked dials an address that the user named, unless we are connected
// with a node that was found there. A node that dialed us may claim the address; it is
// believed only while our dials are not answered at all.
func (n *node) dialTargetLocked(t *target) {
	if !t.isDue(time.Now()) || n.leaving || t.id == n.id {
		return
	}
	if ct := n.contacts[t.id]; t.met && ct != nil && (ct.tie == up || ct.tie == resting || ct.tie == waking) {
		return
	}
	t.dialing = true
	n.wg.Go(func() {
		ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
		defer cancel()
		a := n.attempt(ctx, t.addr, nodeID{}, false)
		n.mu.Lock()
		defer n.mu.Unlock()
		if t.refused = errors.Is(a.err, syscall.ECONNREFUSED); a.found != (nodeID{}) || t.refused && !t.met {
			t.id = a.found // another node may have taken the place of the last one, or claimed it
		}
		n.missLocked(t, a)
		t.ended(a.err, tickEvery, retryNamed) // at first soon: perhaps it is just being started
	})
}

// relistLocked has the nodes dialed that peers are connected with and we aren't, if
// that is due. It forgets contacts that are of no use any more, and old blame.
func (n *node) relistLocked(now time.Time) {
	n.gate.forgive()
	for id, ct := range n.contacts {
		if ct.conn != nil {
			continue
		}
		if c := n.throughLocked(id, nil); c != nil {
			n.toldLocked(id, c, c.theirs[id].addr)
		}
		if now.Sub(ct.heardAt) < time.Minute { // longer than a dial or a direct message may take
			continue
		}
		state := n.history.about(id).state
		if !ct.isMet() || state == left || state == unknown || state == lost && now.Sub(ct.heardAt) > forgetLost {
			delete(n.contacts, id)
			n.dropSourceLocked(id)
			n.history.forget(id)
		}
	}
}

// ---- what strangers can make us do

const (
	dialRate        = 50                     // dials per second to unknown nodes
	maxDials        = 6                      // places for dials to unknown nodes: more would make each slower, not all faster
	maxDialsPerAddr = 4                      // dials to unknown nodes at one address under way at once
	mostBlame       = 4                      // dials of late that failed: what a host to blame for so many tells may be passed over
	dialTurn        = 500 * time.Millisecond // a dial that takes longer is waiting for the network, and gives up its place
	blameWait       = 15 * time.Millisecond  // before the next dial for which a host may be to blame, for each that failed of late
	mostBlameWait   = 2 * time.Second

	maxChecks        = 300 // signatures of beacons that are checked in a second: 4 % of a core
	maxChecksPerAddr = 200 // signatures of beacons from one address that are checked in a second: a host may be a room of so many
	fewChecks        = 10  // checks that an address gets in a second though maxChecks are used up

	maxAlike = 64 // warnings of one kind in a launch, and log lines of one kind in a minute
)

// A dialGate bounds the dials to nodes that were never met, so that nodes which
// somebody has made up don't keep real ones waiting. It bounds how many dials begin in
// a second, how many have a place, and how many are under way to each host. The host
// that was dialed is to blame for a failure, and perhaps the host that told of it. Some
// places are kept for hosts without blame. A dial waits longer for each failure that
// either is to blame for, but not one to a host that told of itself, since many
// short-lived nodes are no offence. The zero value is ready. Guarded by node.mu.
type dialGate struct {
	begun  tab // dials that began: each counts for its part of a second
	places int // taken by dials in progress, each for dialTurn at most
	hosts  map[netip.Addr]hostDials
}

// A hostDials is what became of the dials to one host, and to other hosts that it told of.
type hostDials struct {
	underWay int       // dials to it
	blame    int       // dials that failed of late
	dueAt    time.Time // before this no dial begins to it of which another told, or to another of which it told
}

// blames says whether host is to blame for so many dials that what it tells may be passed over.
func (g *dialGate) blames(host netip.Addr) bool { return g.hosts[host].blame >= mostBlame }

// admit says whether a dial to host, of which the host teller told, may begin now.
// If so it is counted, and has a place. The caller gives that up by dialNext, and
// says by done how the dial ended.
func (g *dialGate) admit(host, teller netip.Addr, now time.Time) bool {
	const turn = time.Second / dialRate
	there, told, places, atOnce := g.hosts[host], g.hosts[teller], maxDials, time.Second-turn
	if there.blame+told.blame > 0 { // the rest is kept for hosts without blame
		places, atOnce = maxDials-2, time.Second/2-turn
	}
	if g.begun.add(0, 1, atOnce, now) > 0 || g.places >= places || there.underWay >= maxDialsPerAddr ||
		host != teller && (now.Before(there.dueAt) || now.Before(told.dueAt)) {
		return false
	}
	g.begun.add(turn, 1, atOnce, now)
	g.places++
	there.underWay++
	there.dueAt, told.dueAt = now.Add(there.wait()), now.Add(told.wait())
	if g.hosts == nil {
		g.hosts = map[netip.Addr]hostDials{}
	}
	g.hosts[teller], g.hosts[host] = told, there // in this order, as both may be one host
	return true
}

// wait returns how long the next dial waits for which this host may be to blame.
func (d hostDials) wait() time.Duration { return min(time.Duration(d.blame)*blameWait, mostBlameWait) }

// done notes that a dial to host, of which teller told, has ended. A host that was to
// blame before puts no blame on the one that told of it.
func (g *dialGate) done(host, teller netip.Addr, failed bool) {
	there, told := g.hosts[host], g.hosts[teller]
	there.underWay--
	if !failed {
		there.blame, told.blame = there.blame/2, told.blame/2
	} else if there.blame++; there.blame == 1 {
		told.blame++
	}
	g.hosts[teller], g.hosts[host] = told, there // as above
}

// forgive takes some blame from each host. It is called every relistEvery.
func (g *dialGate) forgive() {
	for host, d := range g.hosts {
		d.blame = max(0, d.blame-1-d.blame/8)
		if g.hosts[host] = d; d.blame+d.underWay == 0 {
			delete(g.hosts, host)
		}
	}
}

// A checkBudget bounds the signatures that are checked in a second, in all and for beacons
// from one address, or for posts of those who may not sign (the zero address). When others have used up maxChecks, an address still
// gets fewChecks, up to twice maxChecks in all. It counts by the second and is no
// tab, because addresses of UDP packets can be forged by the thousand, and what is
// kept of them goes each second. The zero value is ready. Guarded by node.mu.
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

// makeRoomLocked says whether c may be one more connection, for which it may end
// another. If there are too many with its host, one of them gives way, but only where we
// dialed: those who dial us again and again drive nobody of their host out. If there are
// too many in all, one of the host that has most gives way, if it has at least two more
// than c's. It is the one in the middle by age, if possible of those on which nothing
// was said: early ones stay, and the latest gets in.
func (n *node) makeRoomLocked(c *conn) bool {
	all := slices.DeleteFunc(slices.Collect(maps.Values(n.conns)), func(o *conn) bool { return o.bye != 0 })
	count, host := perHost(all), c.addr.Addr()
	from := host
	switch {
	case count[host] >= maxConnsPerAddr:
		if !c.dialed {
			return false
		}
	case len(all) < maxConns:
		return true
	default:
		for other := range count {
			if count[other] > count[from] {
				from = other
			}
		}
		if count[from] <= count[host]+1 {
			return false
		}
	}
	same := slices.DeleteFunc(all, func(o *conn) bool { return o.addr.Addr() != from })
	slices.SortFunc(same, func(a, b *conn) int { return a.since.Compare(b.since) })
	spoke := func(o *conn) bool { return o.theirs[o.peer].last > 1 } // the first post is the join
	if unused := slices.DeleteFunc(slices.Clone(same), spoke); len(unused) > 0 {
		same = unused
	}
	same[len(same)/2].endLocked(byeFull)
	return true
}

// perHost counts how many connections each host has.
func perHost(conns []*conn) map[netip.Addr]int {
	count := map[netip.Addr]int{}
	for _, c := range conns {
		count[c.addr.Addr()]++
	}
	return count
}

// ---- what silence and broken connections mean

const (
	suspicion   = 4 * time.Second // a connection silent for so long may be dead: dial anew; more than slowHeartbeat
	silence     = 7 * time.Second // a connection silent for so long is lost: outlives a 3 s stall, and is noticed within 8 s
	smallPacket = 1000            // bytes, that pass on every path
)

// A judgement is what the silence of a peer says of it.
type judgement int

const (
	alive    judgement = iota
	doubtful           // its connection may be dead
	silent             // it is lost
)

// judgeSilence judges a peer from which nothing came on its connection for quiet. beacon
// is how long ago its last beacon came, and answer how long ago a dial was first answered.
// A beacon shows that its program runs, and an answer that its host can be reached. If
// there was both, packets vanish by chance, and the handshake of the fresh connection is
// waited for. If not, nothing that is said comes through.
func judgeSilence(quiet, beacon, answer time.Duration) judgement {
	switch {
	case quiet > silence && (beacon > silence || answer > handshakeTimeout):
		return silent
	case quiet > suspicion:
		return doubtful
	}
	return alive
}

// loseLocked ends the tie of ct, which went without a word. If a peer is connected with
// it, and it isn't known to be gone, it is not lost: the peer brings what it says.
func (n *node) loseLocked(ct *contact, gone bool) {
	n.moveLocked(ct, away, nil)
	if gone || n.throughLocked(ct.id, nil) == nil {
		n.sawOwnLocked(ct.id, post{kind: kindLost})
	}
}

// sawOwnLocked notes that a node went without a word, or that it is back, if it is
// known to have come.
func (n *node) sawOwnLocked(id nodeID, p post) {
	if n.history.about(id).state != unknown && n.history.note(id, p) {
		n.relayLocked(id)
	}
}

// sawLocked notes what the peer of c saw, unless its time lies so far in the future that no
// later sighting would be believed, or a node is to be lost that another peer brings us.
func (n *node) sawLocked(c *conn, x sighting) (taken bool) {
	at, lives := x.time-c.ahead.Microseconds(), x.kind == kindLost && n.throughLocked(x.author, c) != nil
	p := post{kind: x.kind, time: x.time, name: []byte(cleanName(x.name)), addr: x.addr}
	if taken = !lives && at <= n.history.latestCredible() && n.history.noteOf(x.author, p, at); taken {
		n.relayLocked(x.author)
	}
	return taken
}

// chokedLocked looks at a connection of ct that has died. If it was the second in a
// row that died with posts under way, and nothing had arrived on it at all, large
// packets probably vanish on the path, while heartbeats and handshakes pass.
func (n *node) chokedLocked(ct *contact) {
	f := ct.conn.flow
	if !f.bounded || f.sent-f.arrived < smallPacket || time.Since(ct.conn.since) < slowHeartbeat {
		ct.chokes = 0
		return
	}
	if ct.chokes++; ct.chokes > 1 && f.arrived == 0 {
		n.warnOnceLocked("choke "+ct.addr.Addr().String(), "two connections in a row with %s have died while %d bytes were under way; if its network drops large packets, lower the MTU of this machine (as by ip link set dev eth0 mtu 1280)",
			n.label(ct.id), f.sent-f.arrived)
	}
}

// suspectLocked dials every node anew that was reached at the address where ct, a new node,
// is now, because ct may have taken its place. One that isn't silent is up again soon.
func (n *node) suspectLocked(ct *contact) {
	for _, o := range n.contacts {
		if o != ct && o.tie == up && o.conn.addr == ct.conn.addr {
			o.dialAt = time.Time{}
			n.moveLocked(o, suspect, o.conn)
			n.dialLocked(o)
		}
	}
}

// missLocked tells the user, once, of an address of -peer where no node of the room
// was ever found. Those of a table need not be there at all times.
func (n *node) missLocked(t *target, a attempt) {
	if t.since.IsZero() {
		t.since = time.Now()
	}
	t.met = t.met || a.err == nil || errors.Is(a.err, errDuplicate) || t.id == n.id
	switch {
	case t.met || t.alias != "" || n.reachedLocked(t.id).IsValid() || time.Since(t.since) < namedPatience:
	case !a.answered:
		n.warnOnceLocked("peer "+t.addr.String(), "nobody answers at %v, which -peer names (%v); check that p2pchat runs there, and that no firewall stops TCP", t.addr, a.err)
	default:
		n.warnOnceLocked("peer "+t.addr.String(), "who answers at %v, which -peer names, is no node of this room (%v); check the port, and that both have the same secret", t.addr, a.err)
	}
}

// ---- who is there, for the user

// A member is a node as the user may name it: connected, resting, heard through
// others, or only named in the table.
type member struct {
	id      nodeID // zero: not here
	name    string
	aliases []string // in the table
	addr    netip.AddrPort
	mark    string // "?" if it is connected, and another has the better claim to its address; else ""
	since   time.Time
	idle    bool   // its connection rests, or is being opened again
	through string // the peer through which alone it is heard, with its address; empty: it is connected
}

// members returns the nodes that are here, by name, and then the others of the table.
func (n *node) members() (all []member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, ct := range n.contacts {
		if c := ct.conn; c != nil {
			known := n.history.about(id)
			all = append(all, member{id: id, name: known.name, addr: c.addr, mark: known.mark(), since: c.since, idle: n.conns[id] == nil})
		}
	}
	slices.SortFunc(all, compareMembers)
	for _, t := range n.targets {
		i := slices.IndexFunc(all, func(m member) bool { return m.id == t.id })
		if i < 0 || t.id == (nodeID{}) {
			i, all = len(all), append(all, member{})
		}
		if t.alias != "" {
			all[i].aliases = append(all[i].aliases, t.alias)
		}
	}
	return all
}

// beyond returns, by name, the nodes that are heard through others alone. Their
// addresses are what these others say.
func (n *node) beyond() (all []member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, ct := range n.contacts {
		known, c := n.history.about(id), n.throughLocked(id, nil)
		if ct.conn == nil && c != nil && known.last > 0 && known.state != left {
			claimed, by := c.theirs[id], n.history.about(c.peer)
			all = append(all, member{
				id: id, name: known.name, addr: claimed.addr, since: time.Unix(claimed.since, 0),
				through: fmt.Sprintf("%s@%v%s", by.name, c.addr, by.mark()),
			})
		}
	}
	slices.SortFunc(all, compareMembers)
	return all
}

// mark returns what stands behind the address of a, with which we are connected: whether
// another node has the better claim to it.
func (a *author) mark() string {
	if a.reached == nil {
		return "?"
	}
	return ""
}

func compareMembers(a, b member) int {
	return cmp.Or(cmp.Compare(a.name, b.name), a.addr.Compare(b.addr))
}

// label returns the name of a node, and where it was last reached; @? if it never was.
func (n *node) label(id nodeID) string {
	l, known := liner{port: n.roomPort}, n.history.about(id)
	return string(l.appendAddr([]byte(known.name+"@"), *cmp.Or(known.reached, new(netip.AddrPort))))
}

func (n *node) myName() string { return n.history.about(n.id).name }

// differs says in what two names differ that look alike; "" if they don't look alike,
// or are the same.
func differs(a, b string) string {
	switch {
	case !isAlike(a, b) || a == b:
		return ""
	case strings.EqualFold(a, b):
		return "capitals"
	case fold(a) == fold(b):
		return "capitals, white space or what can't be seen"
	}
	return "how an accent is composed: as one character with its letter, or as a second one"
}

// candidates lists, of all, the nodes that are here, as one may write to them.
func candidates(all []member) string {
	var list []string
	for _, m := range all {
		if m.id != (nodeID{}) {
			list = append(list, fmt.Sprintf("@%s@%v%s", m.name, m.addr, m.mark))
		}
	}
	if len(list) > maxCandidates {
		list = append(list[:maxCandidates], "and others, see /members")
	}
	return cmp.Or(strings.Join(list, ", "), "nobody")
}

// whoOf finds, among all, the nodes that a direct message may be meant for. Of
// several names with which s begins, the longest is WHO. known says that WHO is a
// name, though perhaps of nobody who is connected.
func whoOf(s string, all []member) (to []member, who, text string, known bool) {
	s, at := strings.CutPrefix(s, "@")
	end := " " // of WHO
	if !at {
		end = "/"
	}
	who, _, _ = strings.Cut(s, end) // unless a longer one fits
	for _, m := range all {
		here, forms := m.id != (nodeID{}), m.aliases
		if here {
			forms = append(forms, m.name)
		}
		if ip, addr := m.addr.Addr().String()+m.mark, m.addr.String()+m.mark; here && at {
			forms = append(forms, m.name+"@"+ip, m.name+"@"+addr, ip, addr)
		}
		for _, form := range forms {
			if len(form) < len(who) || !strings.HasPrefix(s+end, form+end) {
				continue
			}
			if known = true; len(form) > len(who) {
				who, to = form, nil
			}
			if here && !slices.ContainsFunc(to, func(o member) bool { return o.id == m.id }) {
				to = append(to, m)
			}
		}
	}
	return to, who, strings.TrimPrefix(s[len(who):], end), known
}

// alone says whether we never met anybody.
func (n *node) alone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gather.from == ""
}

// size returns how many nodes the room has, ourselves included: those that we have a
// connection with, and those that we heard of lately, which strangers can make up.
func (n *node) size() (connected, heardOf int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ct := range n.contacts {
		if time.Since(ct.heardAt) < silence {
			heardOf++
		}
	}
	return len(n.conns) + 1, heardOf + 1
}
