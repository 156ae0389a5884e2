package main

// The decisions of a node that need no room and no goroutine: what to ask of which
// peer, who may be dialed and where, what silence means, and who is lost.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatToAskOfWhom(t *testing.T) {
	t.Parallel()
	has := func(first, last uint64) offer { return offer{claim: claim{span: span{first, last, 0}}} }
	stalled := func(o offer, stalls uint64) offer { o.stalls = stalls; return o }
	connected := func(o offer) offer { o.addr = netip.MustParseAddrPort("10.0.0.9:7700"); return o }
	theAuthor := func(o offer) offer { o.isAuthor = true; return o }
	slow := func(o offer) offer { o.served = served{1000, trial}; return o }
	twice := func(o offer) offer { o.served = served{2000, trial}; return o }
	fast := func(o offer) offer { o.served = served{3000, trial}; return o }
	faster := func(o offer) offer { o.served = served{4000, trial}; return o }
	begun := func(o offer) offer { o.served = served{1, trial - 1}; return o }
	settled := verdict{settled: true}
	ask := func(i int, w want) verdict { return verdict{ask: i, want: w} }
	const long = time.Hour
	for _, c := range []struct {
		name string
		l    lack
		want verdict
	}{
		{"nobody is there", lack{waited: long, source: -1}, settled},
		{"nobody has more than we", lack{mine: author{last: 5}, waited: long, source: -1, offers: []offer{{}}}, settled},
		{"one has more", lack{waited: long, source: -1, offers: []offer{{}, has(1, 3)}}, ask(1, want{from: 1})},
		{"who has most of those who have the next is asked", lack{mine: author{last: 2}, waited: long, source: -1, offers: []offer{has(1, 3), has(2, 5), has(3, 4)}}, ask(1, want{from: 3})},
		{"who has more comes before the author, who has not", lack{waited: long, source: -1, offers: []offer{theAuthor(offer{}), has(1, 3)}}, ask(1, want{from: 1})},
		{"the author is about to connect", lack{waited: time.Second, delay: 2 * time.Second, source: -1, offers: []offer{has(1, 3)}}, verdict{}},
		{"the author did not connect", lack{waited: 2 * time.Second, delay: 2 * time.Second, source: -1, offers: []offer{has(1, 3)}}, ask(0, want{from: 1})},
		{"it is on its way", lack{waited: long, quiet: noProgress - 1, offers: []offer{has(1, 3)}}, verdict{}},
		{"it comes slowly, and another has not been tried", lack{waited: long, offers: []offer{slow(has(1, 3)), has(1, 3)}}, ask(1, want{from: 1})},
		{"it comes slowly, and another is three times as fast", lack{waited: long, offers: []offer{slow(has(1, 3)), fast(has(1, 3))}}, ask(1, want{from: 1})},
		{"it comes slowly, and another is no more than twice as fast", lack{waited: long, offers: []offer{slow(has(1, 3)), twice(has(1, 3))}}, verdict{}},
		{"it comes slowly, and of two that are faster one is the fastest", lack{waited: long, offers: []offer{slow(has(1, 3)), fast(has(1, 3)), faster(has(1, 3)), fast(has(1, 3))}}, ask(2, want{from: 1})},
		{"it comes slowly, and another that is faster has later ones only", lack{waited: long, offers: []offer{slow(has(1, 3)), faster(has(2, 3))}}, verdict{}},
		{"it has just begun to come", lack{waited: long, offers: []offer{begun(has(1, 3)), faster(has(1, 3)), has(1, 3)}}, verdict{}},
		{"it comes slowly, and another is no faster", lack{waited: long, offers: []offer{slow(has(1, 3)), slow(has(1, 3))}}, verdict{}},
		{"it comes slowly, and another brought nothing", lack{waited: long, offers: []offer{slow(has(1, 3)), stalled(has(1, 3), 1)}}, verdict{}},
		{"it comes slowly, but of its author", lack{waited: long, offers: []offer{slow(theAuthor(has(1, 3))), has(1, 3)}}, verdict{}},
		{"it did not come", lack{waited: long, quiet: noProgress, offers: []offer{has(1, 3)}}, verdict{want: want{from: 1}, stalled: true}},
		{"it did not come, and another has it too", lack{waited: long, quiet: noProgress, offers: []offer{stalled(has(1, 3), 1), has(1, 3)}}, verdict{ask: 1, want: want{from: 1}, stalled: true}},
		{"it did not come, and another has only what is behind a gap", lack{mine: author{last: 5}, waited: long, quiet: noProgress, offers: []offer{stalled(has(1, 10), maxStalls-1), has(8, 10)}}, verdict{want: want{from: 6}, stalled: true}},
		{"who says that it has all is asked though it failed twice", lack{waited: long, source: -1, offers: []offer{has(6, 9), stalled(has(1, 9), maxStalls-1)}}, ask(1, want{from: 1})},
		{"and is the last resort when it failed three times", lack{waited: long, source: -1, offers: []offer{has(6, 9), stalled(has(1, 9), maxStalls)}}, ask(0, want{from: 6 - 5, over: true})},
		{"a gap, and somebody may come who fills it", lack{waited: gapPatience - 1, source: -1, offers: []offer{has(6, 9)}}, verdict{}},
		{"a gap that nobody came to fill", lack{waited: gapPatience, source: -1, offers: []offer{has(6, 9)}}, ask(0, want{from: 1, over: true})},
		{"a gap behind posts that we hold, and a link may heal", lack{mine: author{last: 2}, waited: healPatience - 1, source: -1, offers: []offer{has(6, 9)}}, verdict{}},
		{"a gap behind posts that we hold, and no link healed", lack{mine: author{last: 2}, waited: healPatience, source: -1, offers: []offer{has(6, 9)}}, ask(0, want{from: 3, over: true})},
		{"a gap behind posts that came just now, and a link may heal", lack{mine: author{last: 2}, waited: long, dry: healPatience - 1, source: -1, offers: []offer{has(6, 9)}}, verdict{}},
		{"a gap behind posts that came a while ago", lack{mine: author{last: 2}, waited: long, dry: healPatience, source: -1, offers: []offer{has(6, 9)}}, ask(0, want{from: 3, over: true})},
		{"who leaves the smallest gap is asked", lack{mine: author{last: 1}, waited: long, source: -1, offers: []offer{has(6, 9), has(4, 5), has(7, 20)}}, ask(1, want{from: 2, over: true})},
		{"who was asked for the next and now has a gap is asked anew", lack{waited: long, quiet: 0, offers: []offer{has(6, 9)}}, ask(0, want{from: 1, over: true})},
		{"who was asked to leave the gap is waited for", lack{waited: long, quiet: 0, over: true, offers: []offer{has(6, 9)}}, verdict{}},
		{"the author sends unasked", lack{mine: author{last: 5, state: present}, waited: long, offers: []offer{theAuthor(has(1, 5))}}, settled},
		{"somebody hears the author", lack{mine: author{last: 5, state: present}, waited: long, source: -1, offers: []offer{has(1, 5), connected(has(1, 5))}}, verdict{ask: 1, want: want{from: 6}, settled: true}},
		{"and was asked already", lack{mine: author{last: 5, state: present}, waited: long, source: 1, offers: []offer{has(1, 5), connected(has(1, 5))}}, settled},
		{"somebody may know what became of the author", lack{mine: author{last: 5, state: present}, waited: long, source: -1, offers: []offer{has(1, 5)}}, verdict{want: want{from: 6}, settled: true}},
		{"what became of it is known", lack{mine: author{last: 5, state: lost}, waited: long, source: -1, offers: []offer{has(1, 5)}}, settled},
		{"it is lost to us, and somebody hears it", lack{mine: author{last: 5, state: lost}, waited: long, source: -1, offers: []offer{connected(has(1, 5))}}, verdict{want: want{from: 6}, settled: true}},
		{"it has left", lack{mine: author{last: 5, state: left}, waited: long, source: -1, offers: []offer{connected(has(1, 5))}}, settled},
		{"it has left, though somebody says that it went on", lack{mine: author{last: 5, state: left}, waited: long, source: -1, offers: []offer{has(1, 9)}}, settled},
		{"our connection with it rests", lack{mine: author{last: 5, state: present}, waited: long, resting: true, source: -1, offers: []offer{connected(has(1, 5))}}, settled},
		{"it signed two histories", lack{mine: author{last: 5, fork: true}, waited: long, source: -1, offers: []offer{has(1, 9)}}, settled},
	} {
		c.l.dry = cmp.Or(c.l.dry, c.l.waited) // unless posts came meanwhile
		if got := c.l.decide(); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestDialGateKeepsPlacesForHostsWithoutBlame(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	bad, good, liar := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	var g dialGate
	told := func(teller, host netip.Addr, tries int) (n int) {
		for range tries {
			if g.admit(host, teller, now) {
				n++
			}
		}
		return n
	}
	admitted := func(host netip.Addr, tries int) int { return told(host, host, tries) }
	check := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d dials were admitted, want %d", what, got, want)
		}
	}
	check("one host", admitted(bad, 10), maxDialsPerAddr)
	check("another beside it", admitted(good, 10), maxDials-maxDialsPerAddr)
	for range maxDialsPerAddr {
		g.places--
		g.done(bad, bad, true)
	}
	check("a host with blame, of which another tells", told(liar, bad, 10), 1)
	check("the same again", told(liar, bad, 10), 0)
	now = now.Add(maxDialsPerAddr * blameWait)
	check("the same after a moment", told(liar, bad, 10), 1)
	g.places--
	g.done(bad, liar, false)
	now = now.Add(time.Second)
	check("a host with blame, of which it tells itself", admitted(bad, 10), 1)
	check("the places kept for others", admitted(good, 10), 2)
	for range 100 { // blame fades
		g.forgive()
	}
	g = dialGate{hosts: map[netip.Addr]hostDials{bad: {blame: g.hosts[bad].blame}}}
	check("a host that was forgiven", admitted(bad, 10), maxDialsPerAddr)
	g = dialGate{}
	for i := range 2 * dialRate {
		if g.admit(bad, bad, now) {
			g.places--
			g.done(bad, bad, false)
		} else if i < dialRate {
			t.Errorf("dial %d of a second was not admitted", i)
		} else {
			break
		}
	}
	now = now.Add(time.Second / dialRate)
	check("a moment later", admitted(good, 5), 1)
}

func TestChecksOfBeaconsAreBounded(t *testing.T) {
	t.Parallel()
	var b checkBudget
	now := time.Now()
	admitted := func(host byte) (n int) {
		for range 2 * maxChecks {
			if b.admit(netip.AddrFrom4([4]byte{10, 0, 0, host}), now) {
				n++
			}
		}
		return n
	}
	want := []int{maxChecksPerAddr, maxChecks - maxChecksPerAddr, fewChecks, fewChecks}
	for range 2 {
		for host, n := range want {
			if got := admitted(byte(host)); got != n {
				t.Errorf("%d beacons of host %d are checked in a second, want %d", got, host, n)
			}
		}
		now = now.Add(time.Second)
	}
}

// TestDialGateBlamesWhoTellsOfNobody: each node that one member tells of is said
// to be on a host of its own.
func TestDialGateBlamesWhoTellsOfNobody(t *testing.T) {
	t.Parallel()
	const most = 60 // dials in 10 s
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	liar, friend := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	var g dialGate
	host := liar
	vain, late := 0, 0
	for i := range 1000 {
		if host = host.Next(); g.admit(host, liar, now) {
			g.places--
			g.done(host, liar, true)
			vain++
		}
		if i%100 == 50 {
			if host = host.Next(); g.admit(host, friend, now) {
				g.places--
				g.done(host, friend, false)
			} else {
				late++
			}
		}
		if now = now.Add(10 * time.Millisecond); i%400 == 399 {
			g.forgive()
		}
	}
	if vain > most || late > 0 {
		t.Errorf("%d dials in 10 s for who tells of nobody, want at most %d; %d of 10 of whom another tells had to wait", vain, most, late)
	}
}

func TestSilenceIsJudgedByConnectionAndBeacons(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, c := range []struct {
		quiet, beacon, answer time.Duration
		want                  judgement
	}{
		{0, time.Hour, time.Hour, alive},
		{suspicion, time.Hour, time.Hour, alive},
		{suspicion + 1, 0, 0, doubtful},
		{silence, time.Hour, time.Hour, doubtful},
		{silence + 1, 0, time.Hour, silent},
		{silence + 1, time.Hour, 0, silent},
		{silence + 1, silence, handshakeTimeout, doubtful},
		{silence + 1, silence + 1, handshakeTimeout, silent},
		{silence + 1, silence, handshakeTimeout + 1, silent},
	} {
		if got := judgeSilence(c.quiet, c.beacon, c.answer); got != c.want {
			t.Errorf("quiet for %v, the last beacon %v and the last answer %v ago: %d, want %d", c.quiet, c.beacon, c.answer, got, c.want)
		}
	}
}

// TestFailuresInARowPutDialsOff: a dial that worked, or that was put off for another
// reason, is no failure.
func TestFailuresInARowPutDialsOff(t *testing.T) {
	t.Parallel()
	const s, failed, worked, putOff = time.Second, 'f', 'w', 'p'
	for what, want := range map[string][]time.Duration{
		"fffff": {1 * s, 2 * s, 4 * s, 8 * s, 8 * s},
		"wfff":  {1 * s, 1 * s, 2 * s, 4 * s},
		"ffwff": {1 * s, 2 * s, 1 * s, 1 * s, 2 * s},
		"wpff":  {1 * s, 8 * s, 1 * s, 2 * s},
	} {
		synctest.Test(t, func(t *testing.T) {
			var r route
			for i, how := range what {
				switch how {
				case failed:
					r.ended(errDuplicate, retryFirst, retryMost)
				case worked:
					r.ended(nil, retryFirst, retryMost)
				case putOff:
					r.wait(retryMost, retryMost)
				}
				if got := time.Until(r.dialAt); got != want[i] {
					t.Errorf("%s: behind %d of these the next dial waits for %v, want %v", what, i+1, got, want[i])
				}
			}
		})
	}
}

// TestDurationsAgree holds the relations between the durations of the node.
func TestDurationsAgree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what         string
		less, enough time.Duration
	}{
		{"a heartbeat that is missed is no reason for suspicion", slowHeartbeat + tickEvery, suspicion},
		{"a suspect can be dialed anew three times before it is lost", suspicion + 2*dialJoin, silence},
		{"a stall of 3 s is no loss", 3 * time.Second, silence - suspicion + slowHeartbeat},
		{"a loss shows within 8 s", silence + 2*tickEvery, 8 * time.Second},
		{"beacons that come regularly keep fresh", 2 * beaconEvery, beaconFresh},
		{"a direct message that isn't delivered is told within 10 s", directPatience + 2*tickEvery, 10 * time.Second},
		{"a broken connection that can't be had is given up before a direct message on it", dialTimeout, directPatience},
		{"a newcomer prints within 5 s what a member who serves nothing was asked for first", noProgress + latePatience + tickEvery, 5 * time.Second},
		{"a gap is left out while a newcomer still waits", gapPatience + tickEvery, latePatience},
		{"a signal ends the program within 1 s", leaveTimeout + 2*farewell, time.Second},
	} {
		if c.less > c.enough {
			t.Errorf("%s: %v is more than %v", c.what, c.less, c.enough)
		}
	}
}

// ---- what a node knows of others

// TestRouteHoldsAnAddressOfEachFamily, and IPv4 goes first, whichever is learnt first.
func TestRouteHoldsAnAddressOfEachFamily(t *testing.T) {
	t.Parallel()
	const four, other4, six, other6 = "10.0.0.9:7700", "10.0.0.8:7700", "[fe80::9%eth0]:7700", "[fe80::8%eth0]:7700"
	for _, c := range []struct {
		learnt []string
		want   string // the address, and the spare one
		lacks  string // these would be news in their family
	}{
		{nil, "invalid AddrPort invalid AddrPort", ""},
		{[]string{four}, four + " invalid AddrPort", six + " " + other6},
		{[]string{four, other4}, other4 + " invalid AddrPort", six + " " + other6},
		{[]string{four, six}, four + " " + six, other6},
		{[]string{four, six, other6}, four + " " + other6, six},
		{[]string{six}, six + " invalid AddrPort", four + " " + other4},
		{[]string{six, other6}, other6 + " invalid AddrPort", four + " " + other4},
		{[]string{six, four}, four + " " + six, other6},
	} {
		var r route
		for _, addr := range c.learnt {
			r.learn(netip.MustParseAddrPort(addr))
		}
		var lacks []string
		for _, addr := range []string{four, other4, six, other6} {
			if r.lacks(netip.MustParseAddrPort(addr).Addr()) {
				lacks = append(lacks, addr)
			}
		}
		if got := fmt.Sprint(r.addr, " ", r.spare); got != c.want || strings.Join(lacks, " ") != c.lacks {
			t.Errorf("behind %v a node is at %s, and %q would be news; want %s, and %q", c.learnt, got, lacks, c.want, c.lacks)
		}
	}
}

// nodeNumber returns an ID that nobody has a key of.
func nodeNumber(i int) (id nodeID) {
	binary.BigEndian.PutUint64(id[:], uint64(i))
	return id
}

// newStill returns a node that doesn't run, and whose dials fail: nothing happens but
// what a test does.
func newStill() *node {
	n := newNode(someone.key, emptyHistory(ample, time.Now), newRoomKey(""), someone.name, 7700, 7700)
	n.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody there") }
	return n
}

// holds has n hold a join and a line of s.
func (n *node) holds(s *scribe) nodeID {
	now := time.Now().UnixMicro()
	noError(n.history.add(s.id, []post{s.writes(kindJoin, now, ""), s.writes(kindLines, now+1, "hi")}, true, false))
	return s.id
}

// meets has n be connected with s at addr, dialed by one of the two. Its vector is in.
func (n *node) meets(s *scribe, addr netip.AddrPort, dialed bool) *conn {
	c := &conn{n: n, wake: make(chan struct{}, 1), transport: transport{peer: s.id, addr: addr, dialed: dialed}, holdings: holdings{firstPart: true, theirs: map[nodeID]claim{}}}
	ct := n.contactLocked(s.id)
	ct.metAt, ct.heardAt = time.Now(), time.Now()
	n.moveLocked(ct, up, c)
	return c
}

// TestNodeIsLostWhenNobodyBringsItAnyMore: a stray is looked at again and again until
// it is known what became of it.
func TestNodeIsLostWhenNobodyBringsItAnyMore(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct {
		name         string
		age          time.Duration
		was          presence // by what others saw
		shown, heard bool     // it was shown as lost; a peer brings it
		leaving      bool     // we leave
		want         presence
		stays        bool // it is looked at again
	}{
		{name: "it is early", was: present, want: present, stays: true},
		{name: "nobody brings it", age: tickEvery, was: present, want: lost, stays: true},
		{name: "nobody brings it, and we leave", age: tickEvery, was: present, leaving: true, want: present, stays: true},
		{name: "another brings it", age: tickEvery, was: present, heard: true, want: present},
		{name: "it has left", age: tickEvery, was: left, want: left},
		{name: "others saw that it was lost", age: tickEvery, was: lost, want: lost},
		{name: "it was shown as lost", age: time.Hour, was: lost, shown: true, want: lost, stays: true},
		{name: "it was shown as lost, and is brought again", age: time.Hour, was: lost, shown: true, heard: true, want: present},
		{name: "others saw that it is back", age: time.Hour, was: present, shown: true, want: present},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, peer, x := newStill(), newScribe(1, "Bob"), newScribe(2, "Xen")
			id := n.holds(x)
			switch {
			case c.was == lost:
				n.history.note(id, post{kind: kindLost})
			case c.was == left:
				noError(n.history.add(id, []post{x.writes(kindLeave, time.Now().UnixMicro()+2, "")}, true, false))
			}
			if c.heard {
				n.meets(peer, at, true).theirs[id] = claim{addr: at}
			}
			n.strays[id] = stray{by: peer.id, addr: at, since: time.Now().Add(-c.age), lost: c.shown}
			n.leaving = c.leaving
			n.findStraysLocked(time.Now())
			if _, stays := n.strays[id]; stays != c.stays || n.history.about(id).state != c.want {
				t.Errorf("%s: its state is %d, and it is looked at again: %v; want %d, and %v", c.name, n.history.about(id).state, stays, c.want, c.stays)
			}
		})
	}
}

func TestStraysAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, gone := newStill(), 0
		for i := range maxContacts + maxStrays {
			id := nodeNumber(i)
			n.history.note(id, post{kind: kindLost})
			n.history.note(id, post{kind: kindBack})
			n.strays[id] = stray{since: time.Now().Add(-time.Hour)}
		}
		n.findStraysLocked(time.Now())
		for id := range n.strays {
			if n.history.about(id).state == lost {
				gone++
			}
		}
		if gone != maxStrays {
			t.Errorf("%d nodes are lost in a tick, want %d", gone, maxStrays)
		}
		for range 200 {
			n.findStraysLocked(time.Now())
		}
		if len(n.strays) >= maxContacts {
			t.Errorf("%d nodes are looked for that are lost, limit %d", len(n.strays), maxContacts)
		}
	})
}

// TestWhoBecomesAStray: a node that a peer was connected with, and that is known to be
// here.
func TestWhoBecomesAStray(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	n, bob := newStill(), newScribe(1, "Bob")
	here, elsewhere, unknown := n.holds(newScribe(2, "Here")), n.holds(newScribe(3, "Elsewhere")), newScribe(4, "Unknown").id
	c := n.meets(bob, at, true)
	c.theirs = map[nodeID]claim{here: {addr: at}, elsewhere: {span: span{1, 2, 1}}, unknown: {addr: at}}
	n.moveLocked(n.contacts[bob.id], away, nil)
	if s, ok := n.strays[here]; len(n.strays) != 1 || !ok || s.by != bob.id || s.addr != at {
		t.Errorf("the strays are %v, want %v alone", n.strays, here)
	}
}

// TestStrayMayReturn: while something may still be heard of it, it isn't lost.
func TestStrayMayReturn(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	const short = time.Millisecond
	for _, c := range []struct {
		name  string
		until time.Duration // 0: for ever
		set   func(n *node, it, by *contact)
	}{
		{"nothing more is heard", tickEvery, func(*node, *contact, *contact) {}},
		{"its posts are on their way", noProgress, func(n *node, it, _ *contact) { n.lacking[it.id] = lacked{} }},
		{"the peer is dialed anew", 0, func(_ *node, _, by *contact) { by.tie = broken }},
		{"the peer has come back, and still says whom it knows", 0, func(_ *node, _, by *contact) { by.conn.firstPart = false }},
		{"it is dialed anew itself", 0, func(_ *node, it, _ *contact) { it.tie = broken }},
		{"it is dialed", dialTimeout, func(_ *node, it, _ *contact) { it.dialing = true }},
		{"its beacons are heard", dialTimeout, func(_ *node, it, _ *contact) { it.beaconAt = time.Now().Add(short - beaconFresh) }},
		{"its beacons were heard", tickEvery, func(_ *node, it, _ *contact) { it.beaconAt = time.Now().Add(-beaconFresh) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, bob := newStill(), newScribe(1, "Bob")
			n.meets(bob, at, true)
			it, s := n.contactLocked(newScribe(2, "Xen").id), stray{by: bob.id}
			c.set(n, it, n.contacts[bob.id])
			if !n.mayReturnLocked(it.id, s, tickEvery-short) || c.until > 0 && !n.mayReturnLocked(it.id, s, c.until-short) {
				t.Errorf("%s: it is lost too early", c.name)
			}
			if got := n.mayReturnLocked(it.id, s, cmp.Or(c.until, time.Hour)); got != (c.until == 0) {
				t.Errorf("%s: it may return for ever: %v, want %v", c.name, got, c.until == 0)
			}
		})
	}
}

// TestAddressOfTwoGoesToWhoWasDialedThere, or else to who came first.
func TestAddressOfTwoGoesToWhoWasDialedThere(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct{ firstDialed, rests, secondDialed, first, second bool }{
		{false, false, false, true, false},
		{true, false, false, true, false},
		{true, true, false, true, false},
		{false, false, true, false, true},
		{true, false, true, true, true}, // one after the other
	} {
		n := newStill()
		one, two := newScribe(1, "Cid"), newScribe(2, "Cid")
		for _, s := range []*scribe{one, two} {
			n.history.reached(s.id, n.claimAddrLocked(n.meets(s, at, s == one && c.firstDialed || s == two && c.secondDialed)), s.name)
			if ct := n.contacts[s.id]; c.rests && s == one {
				n.moveLocked(ct, resting, ct.conn.atRest())
			}
		}
		first, second := n.history.about(one.id).reached != nil, n.history.about(two.id).reached != nil
		if first != c.first || second != c.second {
			t.Errorf("%+v: the first is shown there: %v, the second: %v", c, first, second)
		}
	}
}

// TestHowLongAnAuthorIsWaitedFor before a third is asked for its posts.
func TestHowLongAnAuthorIsWaitedFor(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	const here, heard, brought, met, failed, broke, resting, vector = 1, 2, 4, 8, 16, 32, 64, 128
	for what, want := range map[int]time.Duration{
		0:                                0,
		met:                              0,
		met | failed | broke:             0,
		here:                             askAfterBeacon, // its vector is still to come
		here | brought:                   askAfterBeacon,
		here | vector:                    0,
		here | vector | heard | brought:  0,
		heard:                            askAfterBeacon,
		heard | brought:                  askAfterBeacon,
		heard | met:                      askAfterBeacon,
		heard | failed:                   askAfterBeacon,
		heard | brought | met:            askAfter,
		heard | brought | failed:         askAfter,
		heard | brought | met | broke:    askAfterBeacon,
		heard | brought | failed | broke: askAfterBeacon,
		brought:                          askAfter,
		brought | met:                    askAfter,
		brought | broke:                  askAfter,
	} {
		synctest.Test(t, func(t *testing.T) {
			n, author := newStill(), newScribe(1, "Xen")
			ct := n.contactLocked(author.id)
			is := func(bit int) bool { return what&bit != 0 }
			if is(here) {
				n.meets(author, at, true).firstPart = is(vector)
			}
			if is(brought) {
				n.meets(newScribe(2, "Bob"), at, true).theirs[author.id] = claim{addr: at}
			}
			ct.beaconAt = time.Now().Add(-beaconFresh)
			if is(heard) {
				ct.beaconAt = time.Now().Add(time.Millisecond - beaconFresh)
			}
			if is(met) {
				ct.metAt = time.Now()
			}
			if is(failed) {
				ct.fails = 1
			}
			if is(broke) {
				ct.tie = broken
			}
			if got := n.delayLocked(author.id, time.Now()); got != want {
				t.Errorf("case %08b: a third is asked after %v, want %v", what, got, want)
			}
		})
	}
}

// TestWhoIsAboutToBeConnected is waited for by who has said all.
func TestWhoIsAboutToBeConnected(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct {
		name string
		want bool
		set  func(n *node, bob *conn, xen *contact)
	}{
		{"all that we know of are here", false, func(*node, *conn, *contact) {}},
		{"a peer still says whom it knows", true, func(_ *node, bob *conn, _ *contact) { bob.firstPart = false }},
		{"somebody is in the handshake", true, func(n *node, _ *conn, _ *contact) { n.handshakes = append(n.handshakes, new(conn)) }},
		{"another is heard", true, func(_ *node, _ *conn, xen *contact) { xen.beaconAt = time.Now() }},
		{"another was heard", false, func(_ *node, _ *conn, xen *contact) { xen.beaconAt = time.Now().Add(-beaconFresh) }},
		{"a peer brings another", true, func(_ *node, bob *conn, xen *contact) { bob.theirs[xen.id] = claim{addr: at} }},
		{"a connection that rests brings another", true, func(n *node, bob *conn, xen *contact) {
			bob.theirs[xen.id] = claim{addr: at}
			n.moveLocked(n.contacts[bob.peer], resting, bob)
		}},
		{"the connection with another rests", false, func(n *node, _ *conn, xen *contact) { n.moveLocked(xen, resting, &conn{n: n}) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newStill()
			bob := n.meets(newScribe(1, "Bob"), at, true)
			n.contacts[bob.peer].beaconAt = time.Now()
			c.set(n, bob, n.contactLocked(newScribe(2, "Xen").id))
			if got := n.expectingLocked(); got != c.want {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		})
	}
}

// TestWhoIsMissedHearsMoreBeacons: those that few nodes need.
func TestWhoIsMissedHearsMoreBeacons(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct {
		name string
		want bool
		set  func(n *node, xen *contact)
	}{
		{"all are here", false, func(n *node, xen *contact) { n.moveLocked(xen, up, &conn{n: n}) }},
		{"nobody is here", true, func(n *node, _ *contact) { clear(n.conns) }},
		{"one was never met", false, func(_ *node, xen *contact) { xen.metAt = time.Time{} }},
		{"one went without a word", true, func(*node, *contact) {}},
		{"one is silent", true, func(n *node, xen *contact) { n.moveLocked(xen, suspect, &conn{n: n}) }},
		{"the connection with one rests", false, func(n *node, xen *contact) { n.moveLocked(xen, resting, &conn{n: n}) }},
	} {
		n := newStill()
		n.meets(newScribe(1, "Bob"), at, true)
		xen := n.contactLocked(newScribe(2, "Xen").id)
		xen.metAt = time.Now()
		c.set(n, xen)
		if got := n.misses(); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	n, xen := newStill(), newScribe(2, "Xen")
	n.holds(xen)
	n.meets(newScribe(1, "Bob"), at, true)
	n.contactLocked(xen.id).metAt = time.Now()
	noError(n.history.add(xen.id, []post{xen.writes(kindLeave, time.Now().UnixMicro()+2, "")}, true, false))
	if n.misses() {
		t.Error("one that has left is missed")
	}
}

// TestOthersHearWhereWeAreConnected, and that we no longer are, but nothing of what
// changes nothing for them.
func TestOthersHearWhereWeAreConnected(t *testing.T) {
	t.Parallel()
	at, elsewhere := netip.MustParseAddrPort("10.0.0.9:7700"), netip.MustParseAddrPort("10.0.0.44:7700")
	link := func(addr netip.AddrPort) *conn { return &conn{transport: transport{addr: addr}} }
	one, fresh, moved := link(at), link(at), link(elsewhere)
	n, xen := newStill(), newScribe(1, "Xen")
	ct := n.contactLocked(xen.id)
	for i, c := range []struct {
		to   tie
		c    *conn
		news bool
	}{
		{up, one, true}, {suspect, one, false}, {up, fresh, false}, {up, moved, true}, {resting, moved, false}, {waking, moved, false},
		{up, moved, false}, {broken, nil, true}, {up, one, true}, {away, nil, true}, {away, nil, false},
	} {
		clear(n.news)
		ct.answeredAt = time.Now()
		n.moveLocked(ct, c.to, c.c)
		if got := n.news[ct.id].cameWent; got != c.news {
			t.Errorf("step %d: when it is %v the others hear of it: %v, want %v", i, c.to, got, c.news)
		}
		connected, rests := c.to == up || c.to == suspect, c.to == resting || c.to == waking
		if n.conns[ct.id] != nil != connected || n.rested[ct.id] != nil != rests || ct.conn != c.c {
			t.Errorf("step %d: %v, and connected: %v, at rest: %v", i, c.to, n.conns[ct.id], n.rested[ct.id])
		}
		if !ct.answeredAt.IsZero() {
			t.Errorf("step %d: an answer from before still counts", i)
		}
	}
}

// TestWhichBeaconsAreChecked: those that would change an address that we know, or that
// count as a sign of life.
func TestWhichBeaconsAreChecked(t *testing.T) {
	t.Parallel()
	here, there, six := netip.MustParseAddrPort("10.0.0.9:7700"), netip.MustParseAddrPort("10.0.0.8:7700"), netip.MustParseAddrPort("[fe80::9%eth0]:7700")
	const checked, named, next = 10, 20, 21 // counters of beacons
	const long = time.Hour
	for _, c := range []struct {
		name        string
		tie         tie
		met         bool
		quiet, last time.Duration // since something came on the connection; since a beacon was believed
		counter     uint64
		from        netip.AddrPort
		check, seen bool // it is checked, or else believed
	}{
		{"a replay", away, false, 0, long, checked, there, false, false},
		{"a node that we never met", away, false, 0, long, next, here, false, true},
		{"it is elsewhere", away, false, 0, 0, next, there, true, false},
		{"we met it, and heard it lately", away, true, 0, silence - 1, next, here, false, true},
		{"we met it, and did not hear it for long", away, true, 0, silence, next, here, true, false},
		{"we met it, and it is elsewhere", away, true, 0, 0, next, there, true, false},
		{"it is connected", up, true, 0, 0, next, here, false, false},
		{"it is connected, and elsewhere", up, true, 0, 0, next, there, false, false},
		{"it is connected, and has another family", up, true, 0, 0, next, six, true, false},
		{"it is connected, and is quiet", up, true, suspicion, long, next, here, true, false},
		{"it is connected, and is quiet, and a beacon of before comes again", up, true, suspicion, long, named, here, false, false},
		{"it is suspect", suspect, true, suspicion, long, next, here, true, false},
		{"it is suspect, and was heard just now", suspect, true, suspicion, beaconEvery - 1, next, here, false, false},
		{"it is suspect, and is elsewhere", suspect, true, suspicion, 0, next, there, true, false},
		{"it is suspect, and a beacon of before comes again", suspect, true, suspicion, long, named, here, false, false},
		{"it is broken", broken, true, 0, beaconEvery, next, here, true, false},
		{"it is broken, and was heard just now", broken, true, 0, beaconEvery - 1, next, here, false, false},
		{"its connection rests", resting, true, 0, 0, next, here, true, false},
		{"its connection is opened again", waking, true, 0, 0, next, here, true, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, xen := newStill(), newScribe(1, "Xen")
			ct := n.contactLocked(xen.id)
			raw := &meter{start: time.Now().Add(-time.Hour - c.quiet)}
			raw.reading.Store(int64(time.Hour))
			ct.addr, ct.tie, ct.conn, ct.dialing = here, c.tie, &conn{transport: transport{raw: raw, addr: here}}, true
			ct.counter, ct.skipped, ct.beaconAt = checked, named, time.Now().Add(-c.last)
			if c.met {
				ct.metAt = time.Now()
			}
			was := ct.beaconAt
			check := n.takeUnchecked(&beacon{node: xen.id, counter: c.counter, port: c.from.Port()}, c.from.Addr())
			if seen := ct.beaconAt != was; check != c.check || seen != c.seen {
				t.Errorf("%s: its beacon is checked: %v, and believed: %v; want %v, and %v", c.name, check, seen, c.check, c.seen)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		n, xen := newStill(), newScribe(1, "Xen")
		if n.takeUnchecked(&beacon{node: n.id, counter: 1, port: 7700}, here.Addr()) || len(n.contacts) > 0 {
			t.Error("our own beacon is news")
		}
		raw := &meter{}
		ct := n.contactLocked(xen.id)
		ct.addr, ct.tie, ct.conn = here, up, &conn{transport: transport{raw: raw, addr: here}}
		for counter, from := range map[uint64]netip.AddrPort{next: here, 1000: there} {
			n.takeUnchecked(&beacon{node: xen.id, counter: counter, port: 7700}, from.Addr())
		}
		if ct.skipped != next || ct.namedAt != time.Now() {
			t.Errorf("the greatest counter from its address is said to be %d, at %v", ct.skipped, ct.namedAt)
		}
	})
}

// TestSightingsWaitForAJoin, as many as there is room for: of an author of whom we hold
// nothing, none is noted.
func TestSightingsWaitForAJoin(t *testing.T) {
	t.Parallel()
	n, xen := newStill(), newScribe(1, "Xen")
	c := n.meets(newScribe(2, "Bob"), netip.MustParseAddrPort("10.0.0.9:7700"), true)
	s := &source{from: c}
	n.sources[xen.id] = s
	for i := range 2 * maxWaiting {
		x := sighting{author: xen.id, kind: kindLost, time: time.Now().UnixMicro() + int64(i), name: []byte("Xen"), addr: xen.addr}
		must(t, c.handle(frameSeen, appendSeen(nil, x)[5:]))
	}
	if state := n.history.about(xen.id).state; len(s.waiting) != maxWaiting || state != unknown {
		t.Errorf("%d sightings wait, and its state is %d; want %d, and %d", len(s.waiting), state, maxWaiting, unknown)
	}
}

// TestOneMemberWarnsOfLittle: it says that authors signed two histories, of whom we hold
// nothing, or something else; and it brings reason to warn of ever more addresses.
func TestOneMemberWarnsOfLittle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		most int
		does func(n *node, c *conn, i int)
	}{
		{"it tells of nobody", 0, func(n *node, c *conn, i int) { n.hasLocked(c, nodeNumber(i), span{0, 0, 1}, netip.AddrPort{}) }},
		{"it tells otherwise of many", 1, func(n *node, c *conn, i int) {
			if i < 10 {
				n.hasLocked(c, n.holds(newScribe(i, "Xen")), span{1, 2, 1}, netip.AddrPort{})
			}
		}},
		{"it is heard at many addresses", maxAlike, func(n *node, _ *conn, i int) { n.warnOnceLocked(fmt.Sprint("mute 10.0.0.", i), "") }},
	} {
		n, warnings := newStill(), 0
		n.warn = func(string, ...any) { warnings++ }
		mallory := n.meets(newScribe(1000, "Mallory"), netip.MustParseAddrPort("10.0.0.9:7700"), true)
		for i := range maxContacts {
			c.does(n, mallory, i)
		}
		if warnings != c.most {
			t.Errorf("%s: the user is warned %d times, want %d", c.name, warnings, c.most)
		}
		n.warnOnceLocked("files", "")
		n.warnOnceLocked("files", "")
		if warnings != c.most+1 {
			t.Errorf("%s: another reason to warn is told %d times, want 1", c.name, warnings-c.most)
		}
	}
}

func TestContactsAreBounded(t *testing.T) {
	t.Parallel()
	n := newStill()
	const met = 100
	for i := range 2 * maxContacts {
		if ct := n.contactLocked(nodeNumber(i)); i < met {
			ct.metAt = time.Now()
		}
	}
	kept := 0
	for i := range met {
		if n.contacts[nodeNumber(i)] != nil {
			kept++
		}
	}
	if len(n.contacts) != maxContacts || kept != met || n.contacts[nodeNumber(2*maxContacts-1)] == nil {
		t.Errorf("%d nodes are known, limit %d, and %d of %d that were met", len(n.contacts), maxContacts, kept, met)
	}
}

// TestWhoLeavesMayStillAcknowledge a direct message, as long as the connection stands.
func TestWhoLeavesMayStillAcknowledge(t *testing.T) {
	t.Parallel()
	n, xen, now := newStill(), newScribe(1, "Xen"), time.Now()
	n.meets(xen, netip.MustParseAddrPort("10.0.0.9:7700"), true)
	n.holds(xen)
	noError(n.history.add(xen.id, []post{xen.writes(kindLeave, now.UnixMicro()+1e6, "")}, true, false))
	ct := n.contacts[xen.id]
	ct.out = []*outgoing{{deadline: now.Add(directPatience)}}
	if n.expireLocked(ct, now); len(ct.out) != 1 {
		t.Error("a message is given up while the connection stands")
	}
	n.moveLocked(ct, away, nil)
	if n.expireLocked(ct, now); len(ct.out) != 0 || n.undelivered != 1 {
		t.Error("a message to one that is gone is not given up")
	}
}

// TestDirectMessageGoesOutOnTheConnectionThatStands, and once.
func TestDirectMessageGoesOutOnTheConnectionThatStands(t *testing.T) {
	t.Parallel()
	n, xen, at := newStill(), newScribe(1, "Xen"), netip.MustParseAddrPort("10.0.0.9:7700")
	old, fresh := n.meets(xen, at, true), n.meets(xen, at, true)
	n.contacts[xen.id].out = []*outgoing{{direct: direct{1, 1, []byte("psst")}}}
	for i, c := range []*conn{old, fresh, old, fresh} {
		b, _ := c.compose(nil)
		if said := bytes.Contains(b, []byte("psst")); said != (i == 1) {
			t.Errorf("write %d: it is sent: %v", i, said)
		}
	}
}

// TestNodesThatWereMetAreBounded: those that are gone make room, and a message to one
// that was forgotten is no old one.
func TestNodesThatWereMetAreBounded(t *testing.T) {
	t.Parallel()
	n, xen, at := newStill(), newScribe(1, "Xen"), netip.MustParseAddrPort("10.0.0.9:7700")
	to := member{id: xen.id, name: "Xen", addr: at}
	must(t, n.sendDirect(to, []byte("one")))
	before := n.contacts[xen.id].sent
	n.contacts[xen.id].out = nil
	here, fresh := n.meets(newScribe(2, "Bob"), at, true).peer, n.contactLocked(nodeNumber(1<<20))
	fresh.metAt, fresh.heardAt = time.Now(), time.Now()
	for i := range maxContacts + 100 {
		n.contactLocked(nodeNumber(i)).metAt = time.Now()
	}
	if len(n.contacts) > maxContacts || n.contacts[here] == nil || n.contacts[fresh.id] != fresh {
		t.Errorf("%d nodes are known, limit %d; one that is here: %v, one that has just gone: %v",
			len(n.contacts), maxContacts, n.contacts[here] != nil, n.contacts[fresh.id] == fresh)
	}
	delete(n.contacts, xen.id)
	must(t, n.sendDirect(to, []byte("two")))
	if after := n.contacts[xen.id].sent; after <= before {
		t.Errorf("the message behind number %d has number %d", before, after)
	}
}

// TestHostToBlameFillsHalfOfTheContacts: beacons and peers that tell of nobody.
func TestHostToBlameFillsHalfOfTheContacts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, eve, other := newStill(), netip.MustParseAddrPort("10.0.0.9:7700"), netip.MustParseAddrPort("10.0.0.8:7700")
		n.gate.hosts = map[netip.Addr]hostDials{eve.Addr(): {blame: mostBlame}}
		n.gate.places = maxDials // so that nobody is dialed
		c := n.meets(newScribe(1, "Eve"), eve, true)
		for i := range maxContacts {
			n.takeUnchecked(&beacon{node: nodeNumber(i), counter: 1, port: 7700}, eve.Addr())
			n.toldLocked(nodeNumber(maxContacts+i), c, other)
		}
		if len(n.contacts) != maxContacts/2+1 {
			t.Errorf("it has us know %d nodes, limit %d", len(n.contacts), maxContacts/2+1)
		}
		c.addr = other
		n.takeUnchecked(&beacon{node: nodeNumber(2 * maxContacts), counter: 1, port: 7700}, other.Addr())
		n.toldLocked(nodeNumber(2*maxContacts+1), c, other)
		if len(n.contacts) != maxContacts/2+3 {
			t.Errorf("%d nodes of which others tell are known, want 2", len(n.contacts)-maxContacts/2-1)
		}
	})
}

// TestFirstBeaconIsCheckedBeforeTheDial: what a forged one said is forgotten, unless a
// true one came meanwhile.
func TestFirstBeaconIsCheckedBeforeTheDial(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct{ good, meanwhile bool }{{true, false}, {true, true}, {false, false}, {false, true}} {
		n, xen, eve := newStill(), newScribe(1, "Xen"), newScribe(2, "Eve")
		by := eve
		if c.good {
			by = xen
		}
		x := noError(n.room.openBeacon(n.room.sealBeacon(by.key, beacon{node: xen.id, counter: 7, port: 7700})))
		ct := n.contactLocked(xen.id)
		ct.addr, ct.dialing, ct.beaconAt, ct.unchecked = at, true, time.Now(), &x
		counter := uint64(0)
		if c.meanwhile {
			ct.unchecked, ct.counter = nil, 8
			counter = 8
		} else if c.good {
			counter = 7
		}
		if good := n.isGenuine(ct, &x, at.Addr()); good != c.good {
			t.Errorf("%+v: the beacon is said to be good: %v", c, good)
		}
		known := c.good || c.meanwhile
		if ct.counter != counter || ct.unchecked != nil || ct.addr.IsValid() != known || ct.beaconAt.IsZero() == known || ct.dialing != c.good {
			t.Errorf("%+v: counter %d, address %v, beacon of %v, dialed: %v", c, ct.counter, ct.addr, ct.beaconAt, ct.dialing)
		}
	}
}

// TestNoFailureFromBeforeASilenceCounts: the dial that comes when a node is heard again
// may fail as well, and the next must not wait for long.
func TestNoFailureFromBeforeASilenceCounts(t *testing.T) {
	t.Parallel()
	for silent, want := range map[time.Duration]time.Duration{silence: retryMost, silence + 1: retryFirst} {
		synctest.Test(t, func(t *testing.T) {
			n, ct := newStill(), new(contact)
			ct.id[0], ct.metAt, ct.fails = 0xff, time.Now(), 8 // the ID is higher, so we dial at once
			ct.beaconAt = time.Now().Add(-silent)
			n.seenLocked(ct, new(beacon), netip.MustParseAddrPort("10.0.0.9:7700"))
			synctest.Wait()
			if wait := time.Until(ct.dialAt); wait != want {
				t.Errorf("heard again after %v, and dialed in vain: the next dial waits for %v, want %v", silent, wait, want)
			}
		})
	}
}

// TestWhereANodeIsToldToBe: its own beacons count for more than what a peer says, and a
// link-local address means nothing without the link.
func TestWhereANodeIsToldToBe(t *testing.T) {
	t.Parallel()
	const mine, told, six, link = "10.0.0.9:7700", "10.0.0.8:7700", "[fe80::9%eth0]:7700", "[fe80::9]:7700"
	for _, c := range []struct {
		known    string        // before
		tie      tie           // ours with it
		beacon   time.Duration // how long ago one came
		addr     string        // that is told
		want     string        // where the node is then
		believed bool          // the peer tells of a dial
	}{
		{"", away, time.Hour, told, told, true},
		{mine, away, time.Hour, told, told, true},
		{mine, away, silence, told, told, true},
		{mine, away, silence - 1, told, mine, false},
		{mine, broken, time.Hour, told, mine, false},
		{"", away, time.Hour, link, "", false},
		{six, away, time.Hour, link, six, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, xen := newStill(), newScribe(1, "Xen")
			bob := n.meets(newScribe(2, "Bob"), netip.MustParseAddrPort("10.0.0.2:7700"), true)
			ct := n.contactLocked(xen.id)
			ct.tie, ct.beaconAt, ct.dialing = c.tie, time.Now().Add(-c.beacon), true
			if c.known != "" {
				ct.addr = netip.MustParseAddrPort(c.known)
			}
			n.toldLocked(xen.id, bob, netip.MustParseAddrPort(c.addr))
			if got := ct.addr.String(); got != cmp.Or(c.want, "invalid AddrPort") || ct.teller.IsValid() != c.believed || ct.heardAt != time.Now() {
				t.Errorf("known at %q, told of %s: it is at %s, and %v has told; want %q, and %v", c.known, c.addr, got, ct.teller, c.want, c.believed)
			}
		})
	}
}

// TestWhoIsForgotten: nodes of which nothing more will come.
func TestWhoIsForgotten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		met  bool
		age  time.Duration // since it was heard of
		was  presence
		gone bool
	}{
		{"it was heard of a moment ago", false, time.Minute - 1, unknown, false},
		{"it was never met", false, time.Minute, unknown, true},
		{"it was never met, and was heard through others", false, time.Minute, present, true},
		{"it was met, and said nothing", true, time.Minute, unknown, true},
		{"it was met, and is here", true, 24 * time.Hour, present, false},
		{"it has left", true, time.Minute, left, true},
		{"it is lost", true, forgetLost, lost, false},
		{"it is lost for long", true, forgetLost + 1, lost, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, xen := newStill(), newScribe(1, "Xen")
			ct, bob := n.contactLocked(xen.id), n.meets(newScribe(2, "Bob"), netip.MustParseAddrPort("10.0.0.2:7700"), true)
			bob.wants = map[nodeID]want{}
			if c.was != unknown {
				n.holds(xen)
			}
			switch c.was {
			case lost:
				n.history.note(xen.id, post{kind: kindLost})
			case left:
				noError(n.history.add(xen.id, []post{xen.writes(kindLeave, time.Now().UnixMicro()+2, "")}, true, false))
			}
			if c.met {
				ct.metAt = time.Now()
				n.history.reached(xen.id, netip.MustParseAddrPort("10.0.0.9:7700"), "Xen")
			}
			n.sources[xen.id] = &source{from: bob}
			ct.heardAt = time.Now().Add(-c.age)
			n.relistLocked(time.Now())
			_, asked := bob.wants[xen.id]
			if gone := n.contacts[xen.id] == nil; gone != c.gone || asked != c.gone || n.sources[xen.id] == nil != c.gone {
				t.Errorf("%s: it is forgotten: %v, and no more asked for: %v; want %v", c.name, gone, asked, c.gone)
			}
			if f := n.history.feeds[xen.id]; c.met && (f != nil && f.pinned) == c.gone {
				t.Errorf("%s: the history is to keep what it knows of it", c.name)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // a peer brings it, and nobody can dial it
		n, xen := newStill(), newScribe(1, "Xen")
		bob := n.meets(newScribe(2, "Bob"), netip.MustParseAddrPort("10.0.0.2:7700"), true)
		bob.theirs[xen.id] = claim{addr: netip.MustParseAddrPort("[fe80::9]:7700")}
		n.contactLocked(n.holds(xen))
		for range 100 {
			time.Sleep(relistEvery)
			n.relistLocked(time.Now())
		}
		if n.contacts[xen.id] == nil {
			t.Error("a node that a peer brings is forgotten")
		}
	})
}

// ---- dials

func TestWhoIsDialed(t *testing.T) {
	t.Parallel()
	const long = time.Hour
	for _, c := range []struct {
		tie           tie
		heard, beacon time.Duration // how long ago
		want, leaving bool          // it is dialed; while we leave
	}{
		{away, silence, long, true, false},
		{away, silence + 1, 0, false, false},
		{up, 0, 0, false, false},
		{suspect, 0, 0, true, false},
		{broken, long, long, true, true},
		{waking, long, 0, true, true},
		{resting, long, slowHeartbeat, true, false},
		{resting, 0, slowHeartbeat - 1, false, false},
	} {
		n, now := newStill(), time.Now()
		ct := &contact{tie: c.tie, heardAt: now.Add(-c.heard)}
		ct.addr, ct.beaconAt = netip.MustParseAddrPort("10.0.0.9:7700"), now.Add(-c.beacon)
		for n.leaving = range map[bool]bool{false: true, true: true} {
			if got, want := n.isDueLocked(ct, now), !n.leaving && c.want || n.leaving && c.leaving; got != want {
				t.Errorf("%v, heard of %v ago, its beacon %v ago, and we leave: %v: it is dialed: %v, want %v", c.tie, c.heard, c.beacon, n.leaving, got, want)
			}
		}
		ct.addr = netip.AddrPort{}
		if n.isDueLocked(ct, now) {
			t.Errorf("%v: it is dialed, and we know no address", c.tie)
		}
	}
}

// TestBrokenConnectionIsDialedAgain: whoever answers and hangs up may be about to die,
// or only have no time.
func TestBrokenConnectionIsDialedAgain(t *testing.T) {
	t.Parallel()
	const most = 11 // dials in 4 s
	four, six := netip.MustParseAddrPort("10.0.0.9:7700"), netip.MustParseAddrPort("[fe80::9%eth0]:7700")
	hangsUp := func() (net.Conn, error) {
		near, far := net.Pipe()
		far.Close()
		return near, nil
	}
	fails := func(err error) func() (net.Conn, error) { return func() (net.Conn, error) { return nil, err } }
	refuses, noWay := fails(syscall.ECONNREFUSED), fails(syscall.ENETUNREACH)
	for _, c := range []struct {
		name        string
		spare       netip.AddrPort
		four, six   func() (net.Conn, error) // what a dial ends with
		refuses     int                      // after so many dials IPv4 refuses
		least, most int                      // dials
		lasts       time.Duration            // until it is lost
	}{
		{"its host refuses", netip.AddrPort{}, refuses, nil, 0, 1, 1, 0},
		{"its host refuses, and has another address", six, refuses, hangsUp, 0, 1, 1, 0},
		{"there is no way", netip.AddrPort{}, noWay, nil, 9, 1, 1, 0},
		{"it hangs up", netip.AddrPort{}, hangsUp, nil, 99, most, most, dialTimeout},
		{"it hangs up, and then its host refuses", netip.AddrPort{}, hangsUp, nil, 3, 4, 4, 7 * dialAgain},
		{"it hangs up, and there is no way to its other address", six, hangsUp, noWay, 99, 2 * most, 2 * most, dialTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, xen := newStill(), newScribe(1, "Xen")
			n.holds(xen)
			dials, began := 0, time.Now()
			n.dial = func(_ context.Context, _, addr string) (net.Conn, error) {
				dials++
				switch {
				case addr == six.String():
					return c.six()
				case dials > c.refuses:
					return refuses()
				}
				return c.four()
			}
			n.mu.Lock()
			ct := n.contactLocked(xen.id)
			ct.addr, ct.spare, ct.metAt, ct.tie = four, c.spare, began, broken
			for n.dialLocked(ct); ct.tie == broken; {
				n.mu.Unlock()
				time.Sleep(dialAgain)
				n.mu.Lock()
			}
			n.mu.Unlock()
			if took := time.Since(began); dials < c.least || dials > c.most || took > c.lasts+dialJoin/2 || took < c.lasts || n.history.about(xen.id).state != lost {
				t.Errorf("%s: it is lost (state %d) after %d dials and %v, want %d to %d, and %v", c.name, n.history.about(xen.id).state, dials, took, c.least, c.most, c.lasts)
			}
		})
	}
}

// An ear is the raw connection of a peer that says nothing.
type ear struct {
	net.Conn // nil: nobody reads or writes
	closed   bool
}

func (e *ear) Close() error { e.closed = true; return nil }

// TestWhatTheEndOfADialMeans for the tie of a node that was dialed.
func TestWhatTheEndOfADialMeans(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	const long = time.Hour
	fails := attempt{err: errors.New("nobody there")}
	refuses := attempt{err: syscall.ECONNREFUSED}
	other := attempt{found: nodeNumber(9), answered: true, err: errors.New("another node")}
	for _, c := range []struct {
		name          string
		tie           tie
		last          attempt
		beacon, since time.Duration // how long ago its last beacon came, and it was connected or came to rest
		ended         bool          // we end
		want          tie
		closed        bool // its connection is closed
		wait          time.Duration
	}{
		{"it was not connected", away, fails, long, 0, false, away, false, retryFirst},
		{"it was not connected, and is found", away, attempt{}, long, 0, false, away, false, retryFirst},
		{"it has connected meanwhile", up, refuses, long, 0, false, up, false, retryFirst},
		{"it is suspect", suspect, fails, long, long, false, suspect, false, retryFirst},
		{"it is suspect, and its host refuses", suspect, refuses, long, long, false, suspect, false, retryFirst},
		{"it is suspect, and another has taken its place", suspect, other, long, long, false, suspect, true, retryFirst},
		{"it is broken", broken, fails, 0, 0, false, away, false, retryFirst},
		{"it broke again meanwhile", broken, attempt{}, long, long, false, broken, false, 0},
		{"it is broken, and we end", broken, fails, long, long, true, broken, false, retryFirst},
		{"it rests", resting, attempt{}, long, long, false, resting, false, slowHeartbeat},
		{"it rests, and doesn't answer", resting, fails, slowHeartbeat, slowHeartbeat, false, away, false, slowHeartbeat},
		{"it rests, doesn't answer, and is heard", resting, fails, slowHeartbeat - 1, long, false, resting, false, slowHeartbeat},
		{"it has just come to rest, and doesn't answer", resting, fails, long, slowHeartbeat - 1, false, resting, false, slowHeartbeat},
		{"it is opened again, and doesn't answer", waking, fails, long, long, false, away, false, retryFirst},
		{"it rests again meanwhile", waking, attempt{}, long, long, false, waking, false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, xen, raw := newStill(), newScribe(1, "Xen"), new(ear)
			ct := n.contactLocked(n.holds(xen))
			if c.tie != away && c.tie != broken {
				ct.conn = &conn{n: n, transport: transport{peer: xen.id, addr: at, raw: &meter{Conn: raw}, since: time.Now().Add(-c.since)}}
			}
			ct.addr, ct.tie, ct.metAt, ct.dialing, ct.beaconAt = at, c.tie, time.Now(), true, time.Now().Add(-c.beacon)
			if c.ended {
				n.cancel()
			}
			n.mu.Lock()
			n.dialedLocked(ct, c.last)
			if wait := max(0, time.Until(ct.dialAt)); ct.tie != c.want || raw.closed != c.closed || wait != c.wait || ct.dialing != (c.wait == 0) {
				t.Errorf("%s: then it is %v, its connection is closed: %v, and it is dialed after %v; want %v, %v, %v", c.name, ct.tie, raw.closed, wait, c.want, c.closed, c.wait)
			}
			if wasLost := n.history.about(xen.id).state == lost; wasLost != (c.want == away && c.tie != away) {
				t.Errorf("%s: it is lost: %v", c.name, wasLost)
			}
			n.mu.Unlock()
		})
	}
}

// TestWhatADialShowsOfItsNode: that it is no more, or not.
func TestWhatADialShowsOfItsNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, ct := newStill(), &contact{id: nodeNumber(1)}
		for i, age := range []time.Duration{0, dialTimeout - 1, dialTimeout} {
			n.contactLocked(nodeNumber(i + 2)).metAt = time.Now().Add(-age)
		}
		n.contactLocked(nodeNumber(2)).metAt = time.Time{}
		found := func(id nodeID) attempt { return attempt{found: id, answered: true, err: errors.New("another")} }
		for what, c := range map[string]struct {
			last attempt
			want bool
		}{
			"it is found":      {found(ct.id), false},
			"we are found":     {found(n.id), false},
			"nobody answers":   {attempt{err: context.DeadlineExceeded}, false},
			"its host refuses": {attempt{err: syscall.ECONNREFUSED}, true},
			"another is found that we never heard of": {found(nodeNumber(99)), true},
			"another is found that we never met":      {found(nodeNumber(2)), true},
			"another is found that is new":            {found(nodeNumber(3)), true},
			"another is found that was there before":  {found(nodeNumber(4)), false},
		} {
			if got := n.isGoneLocked(ct, c.last); got != c.want {
				t.Errorf("%s: it is gone: %v, want %v", what, got, c.want)
			}
		}
	})
}

// TestWhatIsOddOfADialIsTold: if it is so again and again, and the node is heard.
func TestWhatIsOddOfADialIsTold(t *testing.T) {
	t.Parallel()
	xen := nodeNumber(1)
	ends := map[rune]attempt{
		'u': {err: context.DeadlineExceeded},                                         // unanswered
		'g': {answered: true, err: errors.New("no TLS")},                             // garbage
		'o': {found: nodeNumber(2), answered: true, err: errors.New("another node")}, // another
		'd': {found: xen, answered: true, err: errDuplicate},
		's': {found: xen, answered: true},
	}
	for dials, want := range map[string]int{
		"uu": 0, "uuu": 1, "uuuuuu": 1, "uusuu": 0, "uuduu": 0, "o": 0, "oo": 1, "oooo": 1, "oso": 0, "odo": 0, "oguo": 1, "gggg": 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			n, told := newStill(), 0
			n.warn = func(string, ...any) { told++ }
			ct := n.contactLocked(xen)
			for _, how := range dials {
				time.Sleep(beaconEvery)
				ct.beaconAt = time.Now()
				n.wonderLocked(ct, ends[how])
			}
			if told != want {
				t.Errorf("dials that end with %s: the user is told %d things, want %d", dials, told, want)
			}
		})
	}
}

// TestNamedAddressIsDialed unless the node that was found there is connected.
func TestNamedAddressIsDialed(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	const nobody, us, claimed = 100, 101, 102 // were found there
	for found, want := range map[tie]bool{claimed: true, nobody: true, us: false, away: true, up: false, suspect: true, broken: true, resting: false, waking: false} {
		for _, leaving := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				n, to := newStill(), &target{route: route{addr: at}, met: true}
				switch found {
				case claimed: // by who dialed us
					to.id, to.met = nodeNumber(1), false
					n.contactLocked(to.id).tie = up
				case nobody:
				case us:
					to.id = n.id
				default:
					to.id = nodeNumber(1)
					n.contactLocked(to.id).tie = found
				}
				n.leaving = leaving
				n.mu.Lock()
				if n.dialTargetLocked(to); to.dialing != (want && !leaving) {
					t.Errorf("its tie is %d, and we leave: %v: it is dialed: %v", found, leaving, to.dialing)
				}
				n.mu.Unlock()
				synctest.Wait()
			})
		}
	}
	synctest.Test(t, func(t *testing.T) { // at first soon: perhaps it is just being started
		n, to, dials := newStill(), &target{route: route{addr: at}}, []time.Duration(nil)
		began := time.Now()
		n.dial = func(context.Context, string, string) (net.Conn, error) {
			dials = append(dials, time.Since(began))
			return nil, syscall.ECONNREFUSED
		}
		for range 40 {
			n.mu.Lock()
			n.dialTargetLocked(to)
			n.mu.Unlock()
			time.Sleep(tickEvery)
		}
		synctest.Wait()
		if want := []time.Duration{0, tickEvery, 3 * tickEvery, 7 * tickEvery, 7*tickEvery + retryNamed, 7*tickEvery + 2*retryNamed}; !slices.Equal(dials[:min(len(dials), len(want))], want) {
			t.Errorf("it is dialed after %v, want %v", dials, want)
		}
	})
}

func TestDialGate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	host, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	const turn, moment = time.Second / dialRate, time.Nanosecond
	late := now.Add(moment)
	for _, c := range []struct {
		name    string
		there   hostDials // dials to the host
		told    hostDials // dials of which the teller told
		itself  bool      // the host told of itself
		places  int       // taken
		owed    time.Duration
		admits  bool
		waits   time.Duration // of the next dial to the host
		waitsOf time.Duration // of the next dial of which the teller tells
	}{
		{name: "nothing is under way", admits: true},
		{name: "one place is left", places: maxDials - 1, admits: true},
		{name: "no place is left", places: maxDials},
		{name: "places that are kept from a host with blame", there: hostDials{blame: 1}, places: maxDials - 2},
		{name: "places that are kept from who told of it", told: hostDials{blame: 1}, places: maxDials - 2},
		{name: "one place is left to a host with blame", there: hostDials{blame: 1}, places: maxDials - 3, admits: true, waits: blameWait},
		{name: "many dials to the host", there: hostDials{underWay: maxDialsPerAddr - 1}, admits: true},
		{name: "too many dials to the host", there: hostDials{underWay: maxDialsPerAddr}},
		{name: "the host has to wait", there: hostDials{dueAt: late}},
		{name: "the host has waited", there: hostDials{dueAt: now}, admits: true},
		{name: "who told has to wait", told: hostDials{dueAt: late}},
		{name: "what it tells of itself never waits", there: hostDials{dueAt: late, blame: 2}, itself: true, admits: true, waits: 2 * blameWait, waitsOf: 2 * blameWait},
		{name: "many dials in this second", owed: time.Second - turn, admits: true},
		{name: "too many dials in this second", owed: time.Second - turn + moment},
		{name: "dials in this second to a host with blame", owed: time.Second/2 - turn, there: hostDials{blame: 3}, admits: true, waits: 3 * blameWait},
		{name: "too many dials in this second to a host with blame", owed: time.Second/2 - turn + moment, there: hostDials{blame: 1}},
		{name: "much blame", told: hostDials{blame: 1000}, admits: true, waitsOf: mostBlameWait},
	} {
		g, teller := dialGate{places: c.places, begun: tab{owed: c.owed, at: now}, hosts: map[netip.Addr]hostDials{other: c.told, host: c.there}}, other
		if c.itself {
			teller = host
		}
		was := g.hosts[host]
		if got := g.admit(host, teller, now); got != c.admits {
			t.Errorf("%s: a dial is admitted: %v, want %v", c.name, got, c.admits)
		}
		if is := g.hosts[host]; !c.admits && (is != was || g.places != c.places || g.begun.owed != c.owed) {
			t.Errorf("%s: a dial that isn't admitted is counted: %+v", c.name, g)
		} else if c.admits && (is.underWay != was.underWay+1 || g.places != c.places+1 || g.begun.owed != c.owed+turn ||
			is.dueAt != now.Add(c.waits) || g.hosts[teller].dueAt != now.Add(c.waitsOf)) {
			t.Errorf("%s: a dial that is admitted is counted as %+v", c.name, g)
		}
	}
	for _, c := range []struct {
		there, told int // who is to blame for how many
		failed      bool
		want, of    int
	}{
		{0, 0, true, 1, 1}, {1, 0, true, 2, 0}, {5, 3, true, 6, 3}, {0, 0, false, 0, 0}, {5, 3, false, 2, 1},
	} {
		g := dialGate{hosts: map[netip.Addr]hostDials{host: {underWay: 1, blame: c.there}, other: {blame: c.told}}}
		g.done(host, other, c.failed)
		if is, of := g.hosts[host], g.hosts[other]; is.underWay != 0 || is.blame != c.want || of.blame != c.of {
			t.Errorf("blame of %d and %d is %d and %d, and %d are under way, when a dial has ended, failed: %v", c.there, c.told, is.blame, of.blame, is.underWay, c.failed)
		}
		g = dialGate{hosts: map[netip.Addr]hostDials{host: {underWay: 1, blame: c.there}}}
		g.done(host, host, c.failed)
		if is := g.hosts[host]; is.underWay != 0 || is.blame != c.want {
			t.Errorf("of a host that told of itself: blame of %d is %d, and %d are under way, when a dial has ended, failed: %v", c.there, is.blame, is.underWay, c.failed)
		}
	}
	for blame, want := range map[int]int{0: 0, 1: 0, 7: 6, 8: 6, 800: 699} {
		g := dialGate{hosts: map[netip.Addr]hostDials{host: {underWay: 1, blame: blame}, other: {blame: blame}}}
		g.forgive()
		_, kept := g.hosts[other]
		if got := g.hosts[host]; got.blame != want || got.underWay != 1 || kept != (want > 0) {
			t.Errorf("blame of %d is forgiven to %d, want %d; %d are under way, and who has none is remembered: %v", blame, got.blame, want, got.underWay, kept)
		}
	}
}

// ---- what is missing

// TestPlannerLooksSeldomWhereMuchIsMissing: the more so at what a peer doesn't bring.
func TestPlannerLooksSeldomWhereMuchIsMissing(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct {
		name    string
		missing int  // of other authors
		heard   bool // the author is about to connect, and nobody is asked yet
		stalls  uint64
		wait    time.Duration // until the planner looks again
	}{
		{"few are missing", planAtOnce - 1, false, 0, 0},
		{"few are missing, and nobody is asked yet", planAtOnce - 1, true, 0, 0},
		{"nobody is asked yet", planAtOnce, true, 0, time.Second},
		{"a peer is asked", planAtOnce, false, 0, noProgress},
		{"a peer that brought nothing is asked", planAtOnce, false, 2, 4 * noProgress},
		{"a peer that never brings anything is asked", planAtOnce, false, 9, 32 * noProgress},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, xen, now := newStill(), newScribe(1, "Xen"), time.Now()
			bob := n.meets(newScribe(2, "Bob"), at, true)
			bob.wants = map[nodeID]want{}
			bob.theirs[xen.id] = claim{span: span{1, 3, 1}, stalls: c.stalls}
			for i := range c.missing {
				n.lackLocked(nodeNumber(i))
			}
			if c.heard {
				n.contactLocked(xen.id).beaconAt = now
			}
			n.lackLocked(xen.id)
			n.decideLocked(xen.id, n.lacking[xen.id], now)
			if _, asked := bob.wants[xen.id]; asked == c.heard {
				t.Errorf("%s: it is asked: %v", c.name, asked)
			}
			again := n.lacking[xen.id].again
			if wait := again.Sub(now); c.wait == 0 != again.IsZero() || c.wait > 0 && wait != c.wait {
				t.Errorf("%s: the planner looks again at %v, after %v, want %v", c.name, again, wait, c.wait)
			}
			n.lacking[xen.id] = lacked{again: now.Add(1)}
			clear(bob.wants)
			if n.planLocked(now); len(bob.wants) > 0 {
				t.Errorf("%s: the planner looks before that", c.name)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		n, most := newStill(), planMost/40 // with nobody connected
		for i := range most + 10 {
			n.lackLocked(nodeNumber(i))
		}
		if n.planLocked(time.Now()); len(n.lacking) != 10 {
			t.Errorf("the planner leaves %d authors for the next tick, want 10", len(n.lacking))
		}
	})
}

// TestClaimsThatAreOfNoUseAreForgotten, but not while they may tell what became of an
// author.
func TestClaimsThatAreOfNoUseAreForgotten(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct {
		name             string
		settled, reached bool
		gone, itself     bool // the author is lost; it says so itself
		claim            claim
		forgotten, knows bool // the peer needn't be told of what we hold
	}{
		{name: "nothing is missing any more", settled: true, claim: claim{span: span{1, 2, 1}}, forgotten: true, knows: true},
		{name: "it had less", settled: true, claim: claim{span: span{1, 1, 1}}, forgotten: true},
		{name: "it has more", settled: true, claim: claim{span: span{1, 3, 1}}},
		{name: "it is connected with the author", settled: true, claim: claim{span: span{1, 2, 1}, addr: at}},
		{name: "it is the author", settled: true, itself: true, claim: claim{span: span{1, 2, 1}}},
		{name: "it may know what became of the author", claim: claim{span: span{1, 2, 1}}},
		{name: "we are connected with the author", reached: true, claim: claim{span: span{1, 2, 1}}, forgotten: true, knows: true},
		{name: "what became of the author is known", gone: true, claim: claim{span: span{1, 2, 1}}, forgotten: true, knows: true},
	} {
		n, xen := newStill(), newScribe(1, "Xen")
		id, by := n.holds(xen), newScribe(2, "Bob")
		if c.gone {
			n.history.note(id, post{kind: kindLost})
		}
		if c.reached {
			n.meets(xen, at, true)
		}
		if c.itself {
			by = xen
		}
		bob := n.meets(by, at, true)
		bob.theirs[id] = c.claim
		n.news = map[nodeID]bulletin{id: {}}
		n.tidyLocked(id, c.settled)
		_, kept := bob.theirs[id]
		if knows := slices.Contains(n.news[id].known, bob); kept == c.forgotten || knows != c.knows {
			t.Errorf("%s: its claim is kept: %v, and it needn't be told: %v", c.name, kept, knows)
		}
	}
}

// TestAnotherAtItsAddressMakesItSuspect: the node that was reached there may be no more.
func TestAnotherAtItsAddressMakesItSuspect(t *testing.T) {
	t.Parallel()
	at, elsewhere := netip.MustParseAddrPort("10.0.0.9:7700"), netip.MustParseAddrPort("10.0.0.9:7701")
	synctest.Test(t, func(t *testing.T) {
		n, old, beside, fresh := newStill(), newScribe(1, "Old"), newScribe(2, "Beside"), newScribe(3, "New")
		n.mu.Lock()
		for s, addr := range map[*scribe]netip.AddrPort{old: at, beside: elsewhere, fresh: at} {
			n.meets(s, addr, true)
			n.contacts[s.id].addr, n.contacts[s.id].dialAt = addr, time.Now().Add(time.Hour)
		}
		n.suspectLocked(n.contacts[fresh.id])
		for s, want := range map[*scribe]tie{old: suspect, beside: up, fresh: up} {
			if ct := n.contacts[s.id]; ct.tie != want || ct.dialing != (want == suspect) {
				t.Errorf("%s is %v, and is dialed: %v, want %v", s.name, ct.tie, ct.dialing, want)
			}
		}
		n.mu.Unlock()
		synctest.Wait()
	})
}

// TestPathOnWhichLargePacketsVanishIsTold: two connections in a row have died while posts
// were under way, and nothing had arrived.
func TestPathOnWhichLargePacketsVanishIsTold(t *testing.T) {
	t.Parallel()
	died := func(bounded bool, sent, arrived int64, age time.Duration) *conn {
		return &conn{flow: flow{bounded: bounded, sent: sent, arrived: arrived}, transport: transport{since: time.Now().Add(-age)}}
	}
	conns := map[rune]func() *conn{
		'c': func() *conn { return died(true, smallPacket, 0, slowHeartbeat) },             // choked
		'a': func() *conn { return died(true, 2*smallPacket, smallPacket, slowHeartbeat) }, // something had arrived
		's': func() *conn { return died(true, smallPacket-1, 0, slowHeartbeat) },           // little was under way
		'b': func() *conn { return died(true, smallPacket, 0, slowHeartbeat-1) },           // it was brief
		'n': func() *conn { return died(false, smallPacket, 0, slowHeartbeat) },            // the peer never says what arrives
	}
	for row, want := range map[string]int{"c": 0, "cc": 1, "ccc": 1, "ac": 1, "ca": 0, "aa": 0, "ss": 0, "bb": 0, "nn": 0, "csc": 0, "cbc": 0, "cnc": 0} {
		synctest.Test(t, func(t *testing.T) {
			n, told := newStill(), 0
			n.warn = func(string, ...any) { told++ }
			ct := n.contactLocked(nodeNumber(1))
			for _, how := range row {
				ct.conn = conns[how]()
				n.chokedLocked(ct)
			}
			if told != want {
				t.Errorf("connections that died as %s: the user is told %d things, want %d", row, told, want)
			}
		})
	}
}

// TestNamedAddressWhereNobodyIsIsTold: it was dialed for a while, no node of the room was
// ever found there, and the user gave it by -peer.
func TestNamedAddressWhereNobodyIsIsTold(t *testing.T) {
	t.Parallel()
	fails := attempt{err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		name  string
		first attempt
		last  attempt
		to    target
		after time.Duration
		told  string
	}{
		{"nobody answers", fails, fails, target{}, namedPatience, "nobody answers"},
		{"nobody answers yet", fails, fails, target{}, namedPatience - 1, ""},
		{"another program answers", fails, attempt{answered: true, err: errOtherRoom}, target{}, namedPatience, "who answers"},
		{"a node was found", attempt{}, fails, target{}, namedPatience, ""},
		{"a node that is connected was found", attempt{found: nodeNumber(1), err: errDuplicate}, fails, target{}, namedPatience, ""},
		{"it is our own address", fails, attempt{answered: true, err: errors.New("we are found")}, target{id: someone.id}, namedPatience, ""},
		{"it has dialed us", fails, fails, target{id: nodeNumber(7)}, namedPatience, ""},
		{"it is in the table", fails, fails, target{alias: "Xen"}, namedPatience, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, told := newStill(), ""
			n.warn = func(format string, args ...any) { told = fmt.Sprintf(format, args...) }
			n.contactLocked(nodeNumber(7)).conn = &conn{transport: transport{addr: netip.MustParseAddrPort("10.0.0.9:7700")}}
			n.missLocked(&c.to, c.first)
			time.Sleep(c.after)
			n.missLocked(&c.to, c.last)
			if !strings.HasPrefix(told, c.told) || c.told == "" && told != "" {
				t.Errorf("%s: the user is told %q, want %q", c.name, told, c.told)
			}
		})
	}
}

// TestWhoIsHeardThroughOthersAlone is listed as such.
func TestWhoIsHeardThroughOthersAlone(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	n := newStill()
	bob := n.meets(newScribe(1, "Bob"), at, true)
	heard, here, gone, away := newScribe(2, "Heard"), newScribe(3, "Here"), newScribe(4, "Gone"), newScribe(5, "Away")
	for _, s := range []*scribe{heard, here, gone, away} {
		n.contactLocked(n.holds(s))
	}
	n.meets(here, at, true)
	noError(n.history.add(gone.id, []post{gone.writes(kindLeave, time.Now().UnixMicro()+2, "")}, true, false))
	for _, id := range []nodeID{heard.id, here.id, gone.id, n.contactLocked(nodeNumber(1)).id} {
		bob.theirs[id] = claim{addr: at}
	}
	if all := n.beyond(); len(all) != 1 || all[0].id != heard.id || all[0].addr != at {
		t.Errorf("heard through others alone are %+v, want %s", all, heard.name)
	}
}

// TestSizeOfTheRoom counts who was heard of lately.
func TestSizeOfTheRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newStill()
		n.meets(newScribe(1, "Bob"), netip.MustParseAddrPort("10.0.0.9:7700"), true)
		for i, age := range []time.Duration{0, silence - 1, silence, time.Hour} {
			n.contactLocked(nodeNumber(i)).heardAt = time.Now().Add(-age)
		}
		if connected, heardOf := n.size(); connected != 2 || heardOf != 4 {
			t.Errorf("the room has %d and %d nodes, want 2 and 4", connected, heardOf)
		}
	})
}

// ---- the flow

// TestWindowFollowsHowLongItTakes to arrive, and is left alone while it isn't full.
func TestWindowFollowsHowLongItTakes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name           string
		window, sent   int64
		took           time.Duration
		arrived, want  int64
		slowly, isSlow bool // while it is under way; then
	}{
		{"it is fast", 0, firstWindow, flowFast - 1, firstWindow, 2 * firstWindow, false, false},
		{"it takes a while", 0, firstWindow, flowFast, firstWindow, firstWindow, true, true},
		{"it takes long", 0, firstWindow, flowSlow, firstWindow, firstWindow, true, true},
		{"it is slow", 0, firstWindow, flowSlow + 1, firstWindow, firstWindow / 2, true, true},
		{"it is fast, and can't grow", mostWindow, mostWindow, 0, mostWindow, mostWindow, false, false},
		{"it is slow, and can't shrink", leastWindow, leastWindow, time.Minute, leastWindow, leastWindow, true, true},
		{"it isn't full, and slow", 0, firstWindow - 1, time.Minute, firstWindow - 1, firstWindow, false, false},
		{"it isn't full, and fast", 0, firstWindow - 1, 0, firstWindow - 1, firstWindow, false, false},
		{"a part of it has arrived", 0, firstWindow, 0, firstWindow - 1, firstWindow, false, false},
		{"more has arrived than was sent", 0, firstWindow, 0, 1 << 40, 2 * firstWindow, false, false},
	} {
		f := flow{window: c.window}
		if f.ack(0, now); !f.bounded || f.room() != int(f.limit()) {
			t.Fatalf("%s: a peer that says what arrives may be sent %d bytes", c.name, f.room())
		}
		f.send(int(c.sent), 0, now)
		if got := f.isSlow(now.Add(c.took)); got != c.slowly {
			t.Errorf("%s: while it is under way the path is slow: %v", c.name, got)
		}
		f.send(1, 0, now.Add(c.took)) // the time of the window is not counted from here on
		opens, again := f.ack(c.arrived, now.Add(c.took)), f.ack(min(c.arrived, c.sent), now.Add(c.took))
		if !opens || again {
			t.Errorf("%s: that it has arrived allows for more: %v, and said again: %v", c.name, opens, again)
		}
		if got := f.limit(); got != c.want || f.isSlow(now.Add(c.took)) != c.isSlow || f.room() != int(c.want-c.sent-1+f.arrived) || f.arrived > f.sent {
			t.Errorf("%s: then the window is %d, the path is slow: %v, and %d bytes may be sent; want %d", c.name, got, f.isSlow(now.Add(c.took)), f.room(), c.want)
		}
	}
	for window, want := range map[int64]int{0: firstWindow / 2, leastWindow: leastWindow / 2, mostWindow: maxRun} {
		if f := (flow{bounded: true, window: window}); f.run() != want {
			t.Errorf("of a window of %d a run takes %d, want %d", window, f.run(), want)
		}
	}
	if f := (flow{sent: mostWindow}); f.run() != smallRun || f.room() < maxFrame {
		t.Errorf("to a peer that doesn't say what arrives a run has %d bytes, and there is room for %d", f.run(), f.room())
	}
}

// ---- when beacons are sent

// announces has n send its beacons, to the loopback network. It returns a channel that
// receives when each was sent.
func (n *node) announces(t *testing.T) (*discovery, chan time.Duration) {
	d := &discovery{bind: localNet.Addr(), port: uint16(freePort(t)), key: n.room, soon: make(chan struct{}, 1), chorus: make(chan struct{}, 1)}
	sent, began := make(chan time.Duration, 100), time.Now()
	go d.announce(n.ctx, n)
	go func() {
		for last := (*local)(nil); n.ctx.Err() == nil; time.Sleep(time.Millisecond) {
			if l := d.local.Load(); l != last { // it is looked up for each
				last = l
				sent <- time.Since(began).Truncate(10 * time.Millisecond)
			}
		}
	}()
	return d, sent
}

// TestBeaconsComeAtTheirTime: a few at first, then one every 2 s or so, or less often in a
// large room.
func TestBeaconsComeAtTheirTime(t *testing.T) {
	t.Parallel()
	for members, every := range map[int]time.Duration{1: beaconEvery, 99: 100 * time.Second / beaconsPerSec} {
		synctest.Test(t, func(t *testing.T) {
			n := newStill()
			var c *conn
			for i := range members {
				c = &conn{n: n, wake: make(chan struct{}, 1)}
				n.conns[nodeNumber(i)] = c
			}
			d, sent := n.announces(t)
			at, earliest, latest := time.Duration(0), 2*every, time.Duration(0)
			for i := range 10 {
				before := at
				at = <-sent
				time.Sleep(10 * time.Millisecond)
				wake(d.chorus) // that another is heard so early doesn't count
				if i >= 3 {
					earliest, latest = min(earliest, at-before), max(latest, at-before)
				}
				if least, most := every*3/4, every*5/4; i >= 3 && (at-before < least-10*time.Millisecond || at-before > most+10*time.Millisecond) {
					t.Errorf("in a room of %d, beacon %d comes %v after the one before, want %v to %v", members+1, i, at-before, least, most)
				} else if want := []time.Duration{0, beaconEvery / 8, beaconEvery / 2}; i < 3 && at != want[i] {
					t.Errorf("in a room of %d, beacon %d comes after %v, want %v", members+1, i, at, want[i])
				}
			}
			if latest < every*3/4+every/20 || latest-earliest < every/20 {
				t.Errorf("in a room of %d, beacons come %v to %v behind each other", members+1, earliest, latest)
			}
			synctest.Wait()
			n.mu.Lock()
			if !c.telling.beat {
				t.Error("no heartbeat goes with a beacon")
			}
			n.mu.Unlock()
			n.cancel()
			time.Sleep(time.Second)
		})
	}
}

// TestBeaconsComeWhenTheyAreWanted: those that are asked for, but not too many in a large
// room; and together with those of others, when they are nearly due.
func TestBeaconsComeWhenTheyAreWanted(t *testing.T) {
	t.Parallel()
	const after = 100 * time.Millisecond // a beacon
	for _, c := range []struct {
		name    string
		heardOf int
		wake    func(d *discovery) chan struct{}
		at      time.Duration // after a beacon
		within  time.Duration // of that; 0: the next comes when it is due
	}{
		{"one is asked for", 0, func(d *discovery) chan struct{} { return d.soon }, after, 10 * time.Millisecond},
		{"one is asked for in a room of 60", 60, func(d *discovery) chan struct{} { return d.soon }, after, 60*answerGap + 10*time.Millisecond - after},
		{"one is asked for in a room of 1,000", 1000, func(d *discovery) chan struct{} { return d.soon }, after, answerMost + 10*time.Millisecond - after},
		{"another is heard early", 0, func(d *discovery) chan struct{} { return d.chorus }, beaconEvery/2 - after, 0},
		{"another is heard when one is nearly due", 0, func(d *discovery) chan struct{} { return d.chorus }, beaconEvery*3/4 + 10*time.Millisecond, 10 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newStill()
			for i := range c.heardOf {
				n.contactLocked(nodeNumber(i)).heardAt = time.Now().Add(time.Minute)
			}
			d, sent := n.announces(t)
			for range 4 {
				<-sent
			}
			last := <-sent
			time.Sleep(c.at)
			late := len(sent) > 0 // chance would have it that it is due
			wake(c.wake(d))
			next := <-sent - last - c.at
			due := beaconEvery*3/4 - c.at
			if early := next < due-10*time.Millisecond; !late && (c.within == 0 && early || c.within > 0 && (next > c.within || next < c.within-30*time.Millisecond)) {
				t.Errorf("%s, %v after a beacon: the next comes %v later", c.name, c.at, next)
			}
			n.cancel()
			time.Sleep(2 * time.Second)
		})
	}
}
