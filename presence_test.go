package main

// Who is there, and what is shown of that: nodes that are seen through others
// alone, links that break and heal, connections that rest, and connections
// that break in the moment in which somebody leaves. Each test here was a bug
// once.

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLinkThatHealsIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	for cut := 60 * time.Second; cut < 70*time.Second; cut += 2 * time.Second {
		inBubble(t, func(t *testing.T, l *lab) {
			xen, _, ann := l.enter("Xen"), l.enter("Bob"), l.enter("Ann") // Bob tells both of each other
			after(5 * time.Second)
			l.setApart(ann, xen, true)
			after(cut)
			l.healAll()
			after(5 * time.Second)
			if ann.peersNow() != 2 {
				t.Errorf("not connected 5 s after a cut of %v", cut)
			}
		})
	}
}

// TestLeaversHoldUpNobodyOnTheirHost: many that say where they are have left
// before they could be met, and then somebody comes who stays.
func TestLeaversHoldUpNobodyOnTheirHost(t *testing.T) {
	t.Parallel()
	for range 8 {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann")
			after(5 * time.Second)
			host := netip.AddrFrom4([4]byte{10, 0, 0, 2})
			for range 20 {
				key := newKey()
				ann.hears(key, beacon{node: idOf(key), counter: 1, port: 1000}, host)
				after(20 * time.Millisecond)
			}
			if bob := l.enter("Bob"); bob.addr.Addr() != host {
				t.Fatal("Bob is elsewhere")
			}
			after(700 * time.Millisecond)
			ann.wantLines(1, `^\* Bob@10.0.0.2 joined$`)
		})
	}
}

func TestLeavingWhileAConnectionIsBrokenIsNoLoss(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(3 * time.Second)
		bob.node.mu.Lock()
		bob.conns[ann.id].raw.Close()
		bob.node.mu.Unlock()
		bob.leaves()
		after(10 * time.Second)
		ann.wantLines(1, `Bob@10.0.0.2 left$`)
		ann.wantLines(0, `lost`)
	})
}

func TestRestingConnectionsRelay(t *testing.T) {
	t.Parallel()
	t.Run("what passes is chat", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			yan := l.enter("Yan", deaf())
			ann := l.enter("Ann", deaf(), apartFrom(yan))
			l.enter("Xen", deaf(), listed("Y", yan, 10*time.Second), listed("A", ann, 10*time.Second))
			after(5 * time.Second)
			for i := range 60 {
				yan.says("line %d", i)
				after(time.Second)
			}
			after(3 * time.Second)
			ann.wantLines(60, `: line`)
		})
	})
	t.Run("what is to pass wakes them", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			yan := l.enter("Yan", deaf())
			xen := l.enter("Xen", deaf(), told(yan))
			ann := l.enter("Ann", deaf(), apartFrom(yan), listed("X", xen, 10*time.Second))
			after(30 * time.Second)
			if ann.peersNow() != 0 {
				t.Fatal("nothing rests")
			}
			yan.says("line")
			after(10 * time.Second)
			ann.wantLines(1, `: line`)
		})
	})
}

// TestThirdIsSeenToGoAfterAReconnect: who reaches Cid through Bob hears of his
// end, though the connection with Bob is a new one and nothing was said on it.
func TestThirdIsSeenToGoAfterAReconnect(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, bob := l.enter("Cid"), l.enter("Bob")
		ann := l.enter("Ann", apartFrom(cid))
		after(5 * time.Second)
		l.setApart(ann, bob, true)
		after(20 * time.Second)
		l.setApart(ann, bob, false)
		after(20 * time.Second)
		cid.crash()
		after(8 * time.Second)
		bob.wantLines(1, `Cid@10.0.0.1 lost`)
		ann.wantLines(1, `Cid@10.0.0.1 lost`)
	})
}

// TestNobodyIsLostBeforeItJoined: after a partition a third node tells of one
// that came and went on its side.
func TestNobodyIsLostBeforeItJoined(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(3 * time.Second)
		l.setApart(ann, bob, true)
		after(20 * time.Second)
		xen := l.enter("Xen", apartFrom(ann))
		after(3 * time.Second)
		xen.says("is anybody there?")
		after(time.Second)
		xen.crash()
		after(20 * time.Second)
		l.healAll()
		after(10 * time.Second)
		var of []string
		for _, s := range ann.screen() {
			if strings.Contains(s, "Xen@") {
				of = append(of, s[strings.LastIndexByte(s, ' ')+1:])
			}
		}
		if want := []string{"joined", "there?", "lost"}; !slices.Equal(of, want) {
			t.Errorf("Ann shows of Xen %q, want %q", of, want)
		}
	})
}

// TestLossDuringACutIsToldAfterIt: Ann hears Cid through Bob alone, and is cut
// off from both when Cid goes.
func TestLossDuringACutIsToldAfterIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, bob, ann := l.behind()
		cid.says("hi")
		after(time.Second)
		l.setApart(ann, bob, true)
		after(20 * time.Second)
		cid.crash()
		after(20 * time.Second)
		l.setApart(ann, bob, false)
		after(10 * time.Second)
		for _, g := range []*guest{ann, bob} {
			g.wantLines(1, `^\* Cid@10.0.0.1 lost$`)
		}
	})
}

// TestSightingsAreToldOnce: who changes the node that it hears of Xen by hears
// of what happened minutes ago from both.
func TestSightingsAreToldOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		xen, bob, cid := l.enter("Xen"), l.enter("Bob"), l.enter("Cid")
		ann := l.enter("Ann", apartFrom(xen))
		after(5 * time.Second)
		xen.says("one")
		after(5 * time.Second)
		l.split([]*guest{xen}, []*guest{bob, cid})
		after(30 * time.Second)
		l.setApart(xen, bob, false)
		l.setApart(xen, cid, false)
		after(10 * time.Second)
		xen.says("two")
		after(5 * time.Minute)
		ann.node.mu.Lock()
		by := ann.sources[xen.id].from.peer
		ann.node.mu.Unlock()
		if by == bob.id {
			bob.leaves()
		} else {
			cid.leaves()
		}
		after(2 * time.Second)
		xen.says("three")
		after(20 * time.Second)
		ann.wantLines(1, `: three`)
		ann.wantLines(1, `Xen@10.0.0.1 lost`)
		ann.wantLines(1, `Xen@10.0.0.1 is back`)
	})
}

// TestSightingsOfOthersAreBelievedWhateverTheirClock: Ann sees Xen go, and Bob,
// whose clock is a minute behind, sees him come back.
func TestSightingsOfOthersAreBelievedWhateverTheirClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-time.Minute, time.Minute} {
		inBubble(t, func(t *testing.T, l *lab) {
			xen, ann := l.enter("Xen"), l.enter("Ann")
			bob := l.enter("Bob", withClock(off))
			after(5 * time.Second)
			ann.says("hi")
			after(60 * time.Second)
			l.setApart(xen, ann, true)
			l.setApart(xen, bob, true)
			after(20 * time.Second)
			l.setApart(xen, bob, false)
			after(20 * time.Second)
			ann.wantLines(1, `Xen@10.0.0.1 is back`)
			xen.crash()
			after(20 * time.Second)
			ann.wantLines(2, `Xen@10.0.0.1 lost`)
		})
	}
}
