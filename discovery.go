package main

// This file finds the other nodes of the network, and is found by them.
//
// A node says where it is by a beacon, a small sealed UDP packet, to the
// broadcast address of every interface, and to that of the loopback network so
// that the nodes of one host always meet. Beacons get lost; nothing depends on
// one of them, only on there being another. Interfaces come and go, so they
// are asked anew each time. Whoever hears of somebody that it isn't connected
// with has the node see to it; what comes of that is no business of this file,
// and neither is anything that is ever said.

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	beaconEvery   = 2 * time.Second
	beaconsPerSec = 25                   // of all nodes of a room together: the more nodes, the rarer each
	answerGap     = 5 * time.Millisecond // for each node of the room, between a beacon and one that somebody asks for
	answerMost    = 1 * time.Second
	retryGap      = 200 * time.Millisecond // after an error of the socket
	readBuffer    = 1 << 20                // bytes; a burst of a few thousand beacons
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

// A local is what the interfaces that are up have.
type local struct {
	own  []netip.Addr   // their addresses
	nets []netip.Prefix // the IPv4 networks to announce to, each with our address there
}

// openDiscovery opens the sockets of the room at the given port.
func openDiscovery(bind netip.Addr, port uint16, key *roomKey) (*discovery, error) {
	// The standard library lets several processes share a UDP port in one way
	// alone: a listener on a multicast address is bound to all addresses and
	// may be reused. No group is joined; what is wanted is the sharing.
	hear, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 0), Port: int(port)})
	if err != nil {
		return nil, err
	}
	hear.SetReadBuffer(readBuffer) // best effort: the kernel may allow less
	d := &discovery{bind: bind, port: port, key: key, hear: hear, speak: hear, soon: make(chan struct{}, 1)}
	if bind.IsValid() { // one bound to an address hears no broadcasts, so it is for speaking only
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

// send sends a beacon to everywhere. Each destination gets one of its own,
// so that a node which hears us on two ways knows both.
func (d *discovery) send(n *node) {
	if own := d.look(); len(own) > 0 {
		n.moved(own)
	}
	for _, to := range d.destinations() {
		d.counter++
		packet := d.key.sealBeacon(beacon{n.id, d.counter, n.port, n.myName()})
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

// interfaces returns nothing when that can't be found out: it is asked again
// in a moment.
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
	packet := make([]byte, beaconSize+1) // one more, to notice what is too long
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

// near says whether a beacon from addr concerns us: bound to one address, we
// hear only those of its network.
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
