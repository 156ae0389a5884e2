package main

// The decisions of a node that need no room, no goroutine and no clock: what
// to ask of which peer, who may be dialed, and what silence means.

import (
	"net/netip"
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
	fast := func(o offer) offer { o.served = served{3000, trial}; return o }
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
		{"it comes slowly, and another is no faster", lack{waited: long, offers: []offer{slow(has(1, 3)), slow(has(1, 3))}}, verdict{}},
		{"it comes slowly, and another brought nothing", lack{waited: long, offers: []offer{slow(has(1, 3)), stalled(has(1, 3), 1)}}, verdict{}},
		{"it comes slowly, but of its author", lack{waited: long, offers: []offer{slow(theAuthor(has(1, 3))), has(1, 3)}}, verdict{}},
		{"it did not come", lack{waited: long, quiet: noProgress, offers: []offer{has(1, 3)}}, verdict{want: want{from: 1}, stalled: true}},
		{"it did not come, and another has it too", lack{waited: long, quiet: noProgress, offers: []offer{stalled(has(1, 3), 1), has(1, 3)}}, verdict{ask: 1, want: want{from: 1}, stalled: true}},
		{"who says that it has all is asked though it failed twice", lack{waited: long, source: -1, offers: []offer{has(6, 9), stalled(has(1, 9), maxStalls-1)}}, ask(1, want{from: 1})},
		{"and is the last resort when it failed three times", lack{waited: long, source: -1, offers: []offer{has(6, 9), stalled(has(1, 9), maxStalls)}}, ask(0, want{from: 6 - 5, over: true})},
		{"a gap, and somebody may come who fills it", lack{waited: gapPatience - 1, source: -1, offers: []offer{has(6, 9)}}, verdict{}},
		{"a gap that nobody came to fill", lack{waited: gapPatience, source: -1, offers: []offer{has(6, 9)}}, ask(0, want{from: 1, over: true})},
		{"a gap behind posts that we hold, and a link may heal", lack{mine: author{last: 2}, waited: healPatience - 1, source: -1, offers: []offer{has(6, 9)}}, verdict{}},
		{"a gap behind posts that we hold, and no link healed", lack{mine: author{last: 2}, waited: healPatience, source: -1, offers: []offer{has(6, 9)}}, ask(0, want{from: 3, over: true})},
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
	g = dialGate{hosts: map[netip.Addr]dialed{bad: {blame: g.hosts[bad].blame}}}
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
		{"a newcomer prints within 5 s what a member who serves nothing was asked for first", noProgress + solePatience + tickEvery, 5 * time.Second},
		{"a gap is left out while a newcomer still waits", gapPatience + tickEvery, solePatience},
		{"a signal ends the program within 1 s", leaveTimeout + 2*farewell, time.Second},
	} {
		if c.less > c.enough {
			t.Errorf("%s: %v is more than %v", c.what, c.less, c.enough)
		}
	}
}
