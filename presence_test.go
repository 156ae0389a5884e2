package main

// Who is there, and what is shown of that: nodes that are seen through others
// alone, links that break and heal, connections that rest, and connections
// that break in the moment in which somebody leaves. Each test here was a bug
// once.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
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

// TestHeardThroughOneAtRestIsLostWithIt: Ann hears of Yan through Xen alone, and the
// connection with Xen rests when both go.
func TestHeardThroughOneAtRestIsLostWithIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		yan := l.enter("Yan", deaf())
		xen := l.enter("Xen", deaf(), told(yan))
		ann := l.enter("Ann", deaf(), apartFrom(yan), listed("X", xen, 10*time.Second))
		yan.says("hi")
		after(30 * time.Second)
		if ann.peersNow() != 0 {
			t.Fatal("nothing rests")
		}
		ann.wantLines(1, `^\* Yan@10.0.0.1\? joined$`)
		yan.crash()
		xen.crash()
		after(30 * time.Second)
		ann.wantLines(1, `^\* Xen@10.0.0.2 lost$`)
		ann.wantLines(1, `^\* Yan@10.0.0.1\? lost$`)
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
		ann.wantLines(1, `Cid@10.0.0.1\? lost`)
		ann.wantLines(1, `Cid@10.0.0.1\? is back`)
		cid.crash()
		after(8 * time.Second)
		bob.wantLines(1, `Cid@10.0.0.1 lost`)
		ann.wantLines(2, `Cid@10.0.0.1\? lost`)
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

// TestAddressIsThatOfTheMoment, in the history too: none is rewritten, and what a
// node says of its own is not shown where it was met.
func TestAddressIsThatOfTheMoment(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		after(time.Second)
		x := &scribe{key: newKey(), name: "Xen", addr: netip.MustParseAddrPort("10.1.1.1:7700")}
		x.id = idOf(x.key)
		now := time.Now().UnixMicro()
		run := []post{x.writes(kindJoin, now, ""), x.writes(kindLines, now+1, "before"), x.writes(kindLines, now+60e6, "after")}
		v := l.visitorOn(l.dialFrom("10.9.9.9:7700", ann), x.key, helloOf("Xen"), nil)
		v.says(hasNothing(), framed(framePosts, runOf(x.id, run[:2])))
		after(time.Second)
		v.raw.Close()
		after(10 * time.Second)
		v = l.visitorOn(l.dialFrom("10.9.9.44:7700", ann), x.key, helloOf("Xen"), nil)
		v.says(hasNothing(), framed(framePosts, runOf(x.id, run[2:])))
		after(time.Second)
		want := []string{
			"* Xen@10.9.9.9 joined",
			"Xen@10.9.9.9: before",
			"* Xen@10.9.9.9 lost",
			"* Xen@10.9.9.9 is now at 10.9.9.44",
			"* Xen@10.9.9.44 is back",
			"Xen@10.9.9.44: after",
		}
		if got := ann.screen(); !slices.Equal(got, want) {
			t.Errorf("Ann shows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		whole := newLiner(ann.h(), 7700).appendAll(nil, ann.h().chronology())
		if got := withoutStamps(string(whole)); !slices.Equal(got[1:], want) { // behind her own join
			t.Errorf("her history is\n%s\nwant\n%s", strings.Join(got[1:], "\n"), strings.Join(want, "\n"))
		}
		cid := l.enter("Cid")
		after(5 * time.Second)
		cid.wantLines(1, `^Xen@10\.1\.1\.1\?: before$`)
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
			g.wantLines(1, `^\* Cid@10.0.0.1\?? lost$`)
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
		ann.wantLines(1, `Xen@10.0.0.1\? lost`)
		ann.wantLines(1, `Xen@10.0.0.1\? is back`)
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

// ---- rooms of many

// TestManyAreMetAtOnce: forty come in the same instant, and it doesn't take a
// tick for each few of them.
func TestManyAreMetAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		l.dialsTake(20 * time.Millisecond)
		ann := l.enter("Ann", low())
		after(3 * time.Second)
		const many = 40
		var others []*guest
		for i := range many {
			others = append(others, l.enter(fmt.Sprint("N", i), apartFrom(others...)))
		}
		after(tickEvery - 50*time.Millisecond)
		if n := ann.peersNow(); n != many {
			t.Errorf("Ann has met %d nodes, want %d", n, many)
		}
	})
}

// TestHostsThatSwallowKeepNobodyWaiting: Ann dials nodes of which nothing comes
// back, more than she dials at once, and then somebody comes whom she has to
// dial.
func TestHostsThatSwallowKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		var holes []*guest
		for i := range maxDials {
			holes = append(holes, l.enter(fmt.Sprint("Hole", i), deaf()))
		}
		ann := l.enter("Ann", low(), apartFrom(holes...))
		after(3 * time.Second)
		for i := range 2 * maxDials {
			key := newKey()
			ann.hears(key, beacon{node: idOf(key), counter: 1, port: 7700}, holes[i%maxDials].addr.Addr())
		}
		after(10 * time.Millisecond)
		bob := l.enter("Bob", apartFrom(holes...))
		bob.bar(ann)
		after(2 * dialTurn)
		ann.wantLines(1, `^\* Bob@10.0.0.8 joined$`)
	})
}

// TestHeartbeatsAreSlowInALargeRoom, and news are told together: nobody's beacons are heard here.
func TestHeartbeatsAreSlowInALargeRoom(t *testing.T) {
	t.Parallel()
	const seconds = 30
	for _, c := range []struct{ members, least, most int }{{1, seconds - 3, seconds + 3}, {largeRoom + 1, seconds/3 - 2, seconds/3 + 2}} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			var beats atomic.Int64
			for i := range c.members {
				v := l.visitor(ann, newKey(), fmt.Sprint("N", i), func(_ *visitor, typ byte, _ []byte) {
					if typ == frameHave {
						beats.Add(1)
					}
				})
				v.says(hasNothing())
				v.repeats(2*time.Second, func(int) []byte { return framed(frameHave, frameList{}.have()) })
			}
			after(10 * time.Second)
			beats.Store(0)
			after(seconds * time.Second)
			if n := int(beats.Load()); n < c.least*c.members || n > c.most*c.members {
				t.Errorf("%d members hear %d heartbeats in %d s, want %d to %d each", c.members, n, seconds, c.least, c.most)
			}
			beats.Store(0)
			for i := range byte(8) { // somebody comes or goes all the time, and they are told together
				ann.node.mu.Lock()
				ann.news[nodeID{i}] = bulletin{cameWent: true}
				ann.node.mu.Unlock()
				after(tickEvery)
			}
			if n, most := int(beats.Load())/c.members, 2+int(8*tickEvery/max(tickEvery, time.Duration(c.members)*tellGap)); n > most {
				t.Errorf("%d members hear %d times each what is new, want %d at most", c.members, n, most)
			}
		})
	}
}

// TestReplacedConnectionSendsNothingMore: what stood in the way of a connection
// goes away after another has replaced it, and brought all.
func TestReplacedConnectionSendsNothingMore(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(3 * time.Second)
		l.stall(ann, bob, true)
		const posts, size = 40, 20_000
		for i := range posts {
			ann.says("%d %s", i, strings.Repeat("x", size))
		}
		after(suspicion + 3*tickEvery)
		bob.wantLines(posts, `^Ann@10.0.0.1: \d+ x+$`)
		before := l.passed(ann, bob)
		l.stall(ann, bob, false)
		after(20 * time.Second)
		if n := l.passed(ann, bob) - before; n > posts*size/2 { // what was on its way
			t.Errorf("another %d bytes passed, when the peer had all", n)
		}
		bob.wantLines(posts, `: \d+ x+$`)
		bob.wantLines(0, ` lost$`)
	})
}

// ---- who is about to be here

// TestPipeWaitsForWhoIsAboutToBeHere, though those who are here have heard it
// all.
func TestPipeWaitsForWhoIsAboutToBeHere(t *testing.T) {
	t.Parallel()
	const soon = 300 * time.Millisecond
	// waits says how long Ann's pipe waits.
	waits := func(ann *guest) time.Duration {
		ann.setPatience(patience)
		ann.says("done")
		began := time.Now()
		ann.waitDelivered(context.Background())
		return time.Since(began)
	}
	t.Run("in the handshake", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann")
			l.enter("Bob")
			after(10 * time.Second)
			raw := l.dial(ann)
			synctest.Wait()
			time.AfterFunc(soon, func() { raw.Close() })
			if took := waits(ann); took < soon || took > askAfter {
				t.Errorf("the pipe ends after %v, want %v", took, soon)
			}
		})
	})
	t.Run("may be known to one who is still saying whom it knows", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann")
			l.enter("Bob")
			after(10 * time.Second)
			eve := l.visitor(ann, newKey(), "Eve", nil)
			time.AfterFunc(time.Millisecond, func() { eve.says(claims(ann.id, span{1, 2, 1}, netip.AddrPort{})) }) // all that Ann said
			time.AfterFunc(soon, func() { eve.says(hasNothing()) })
			if took := waits(ann); took < soon || took > askAfter {
				t.Errorf("the pipe ends after %v, want %v", took, soon)
			}
		})
	})
	t.Run("is known to a third", func(t *testing.T) {
		t.Parallel()
		for range 4 { // whichever of the two has to dial
			inBubble(t, func(t *testing.T, l *lab) {
				ann, bob := l.enter("Ann"), l.enter("Bob")
				after(10 * time.Second)
				l.dialsTake(soon)
				zoe := l.enter("Zoe", deaf(), told(bob))
				after(soon + tickEvery + 10*time.Millisecond) // Bob has told of her
				if n := ann.peersNow(); n != 1 {
					t.Fatalf("Ann is connected with %d nodes, want Bob alone", n)
				}
				if took := waits(ann); ann.peersNow() < 2 {
					t.Errorf("the pipe ends after %v, before Zoe is here", took)
				}
				zoe.wantLines(1, `^Ann@10.0.0.1: done$`)
			})
		}
	})
}

// TestBeaconsAloneKeepNobodyHere: what is sent over TCP vanishes, and beacons pass.
func TestBeaconsAloneKeepNobodyHere(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(3 * time.Second)
		l.blockTCP(ann, bob)
		after(8 * time.Second)
		ann.wantLines(1, `^\* Bob@10.0.0.2 lost$`)
		bob.wantLines(1, `^\* Ann@10.0.0.1 lost$`)
		after(time.Minute)
		l.setApart(ann, bob, false)
		after(8 * time.Second)
		for _, g := range []*guest{ann, bob} {
			g.wantLines(1, ` is back$`)
			g.wantLines(3, ``)
		}
	})
}

// TestNobodyIsLostWhomAThirdBrings: TCP is dead between Ann and Bob alone, and Cid
// is connected with both, until he goes too.
func TestNobodyIsLostWhomAThirdBrings(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob, cid := l.enter("Ann"), l.enter("Bob"), l.enter("Cid")
		after(3 * time.Second)
		l.blockTCP(ann, bob)
		after(9 * time.Second)
		bob.says("I am here")
		after(time.Second)
		ann.wantLines(1, `^Bob@10.0.0.2: I am here$`)
		after(20 * time.Second)
		ann.wantLines(0, ` (lost|is back)$`)
		cid.crash()
		after(8 * time.Second)
		ann.wantLines(1, `^\* Cid@10.0.0.3 lost$`)
		ann.wantLines(1, `^\* Bob@10.0.0.2 lost$`)
		l.setApart(ann, bob, false)
		after(8 * time.Second)
		ann.wantLines(1, `^\* Bob@10.0.0.2 is back$`)
	})
}

// TestHeardThroughAThirdAloneIsLostWithIt: Ann was never connected with Cid.
func TestHeardThroughAThirdAloneIsLostWithIt(t *testing.T) {
	t.Parallel()
	for name, goes := range map[string]func(*guest){"dies": (*guest).crash, "leaves": (*guest).leaves} {
		t.Run("the third "+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				cid, bob, ann := l.behind()
				cid.says("hi")
				after(5 * time.Second)
				goes(bob)
				after(8 * time.Second)
				ann.wantLines(1, `^\* Cid@10.0.0.1\? lost$`)
				after(time.Minute)
				ann.wantLines(5, ``)
			})
		})
	}
	t.Run("the third is cut off for a moment", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			_, bob, ann := l.behind()
			ann.node.mu.Lock()
			ann.conns[bob.id].raw.Close()
			ann.node.mu.Unlock()
			after(10 * time.Second)
			ann.wantLines(0, ` lost$`)
		})
	})
	t.Run("somebody leaves beyond the third", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			cid, _, ann := l.behind()
			cid.says("good bye")
			cid.leaves()
			after(10 * time.Second)
			ann.wantLines(0, ` lost$`)
			ann.wantLines(1, `^\* Cid@10.0.0.1\? left$`)
		})
	})
}

// TestIPv4IsDialedFirst: in whatever order the addresses of a node are heard,
// and IPv6 where IPv4 doesn't work.
func TestIPv4IsDialedFirst(t *testing.T) {
	t.Parallel()
	const four, six = "10.0.0.9", "fe80::9%eth0"
	for name, c := range map[string]struct {
		heard  string // one address each 10 ms
		silent string // doesn't answer, while the others refuse
		first  string // what is dialed first,
		within time.Duration
		second string // what is dialed next,
		after  time.Duration
	}{
		"IPv4 alone":      {four, "", four, 0, four, retryFirst},
		"IPv4, then IPv6": {four + " " + six, "", four, 0, four, retryFirst},
		"IPv6, then IPv4": {six + " " + four, "", four, 10 * time.Millisecond, six, 0},
		"IPv4 is silent":  {six + " " + four, four, four, 10 * time.Millisecond, six, dialJoin},
		"IPv6 comes late": {four + " " + six, four, four, 0, six, dialJoin},
		"IPv6 alone":      {six, "", six, familyGap + tickEvery, six, retryFirst},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				ann := l.enter("Ann", low()) // the lower ID dials at once
				after(time.Second)
				began := time.Now()
				var mu sync.Mutex // guards all below
				var dialed []string
				var at []time.Duration
				ann.dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
					host := netip.MustParseAddrPort(addr).Addr().String()
					mu.Lock()
					dialed, at = append(dialed, host), append(at, time.Since(began))
					mu.Unlock()
					if host == c.silent {
						<-ctx.Done()
					}
					return nil, syscall.ECONNREFUSED
				}
				key := newKey()
				for i, addr := range strings.Fields(c.heard) {
					ann.hears(key, beacon{node: idOf(key), counter: uint64(i + 1), port: 7700}, netip.MustParseAddr(addr))
					after(10 * time.Millisecond)
				}
				after(3 * time.Second)
				mu.Lock()
				defer mu.Unlock()
				if len(dialed) < 2 || dialed[0] != c.first || dialed[1] != c.second {
					t.Fatalf("%q are dialed, want first %s, then %s", dialed, c.first, c.second)
				}
				if c.silent != "" && len(dialed) > 2 {
					t.Errorf("%q are dialed, want each once, as long as we never met the node", dialed)
				}
				if at[0] > c.within || at[1]-at[0] < c.after || at[1]-at[0] > c.after+tickEvery {
					t.Errorf("%q are dialed after %v, want the first within %v and the next %v later", dialed, at, c.within, c.after)
				}
			})
		})
	}
}

// TestOtherFamilyIsUsedWhereOneDies: Ann is connected with Bob over IPv4, and hears his
// beacon over IPv6.
func TestOtherFamilyIsUsedWhereOneDies(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		bob := l.enter("Bob", deaf())
		ann := l.enter("Ann", deaf(), told(bob))
		after(time.Second)
		six, dies := netip.MustParseAddrPort("[fe80::9%eth0]:7700"), atomic.Bool{}
		ann.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr != six.String() && dies.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return ann.dialOut(ctx, network, bob.addr.String())
		}
		bob.bar(ann)
		ann.hears(bob.h().key, beacon{node: bob.id, counter: 1, port: six.Port(), name: "Bob"}, six.Addr())
		dies.Store(true)
		l.stall(ann, bob, true)
		after(silence + tickEvery)
		bob.says("I am here")
		after(time.Second)
		ann.wantLines(1, `: I am here$`)
		ann.wantLines(0, ` (lost|is back)$`)
	})
}

// TestDialIsJoinedWherePacketsVanish: of the first attempts of a dial nothing comes back.
func TestDialIsJoinedWherePacketsVanish(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		bob := l.enter("Bob", deaf())
		ann := l.enter("Ann", deaf(), told(bob))
		after(time.Second)
		const vanish = 2
		var dials atomic.Int32
		ann.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) <= vanish {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return ann.dialOut(ctx, network, addr)
		}
		bob.bar(ann)
		l.stall(ann, bob, true)
		after(suspicion + 2*tickEvery + vanish*dialJoin)
		bob.says("I am here")
		after(10 * time.Second)
		ann.wantLines(1, `^Bob@10.0.0.1: I am here$`)
		ann.wantLines(0, ` lost$`)
		if n := dials.Load(); n != vanish+1 {
			t.Errorf("he is dialed %d times, want %d", n, vanish+1)
		}
	})
}

// TestWhoComesSecondIsNotToBlame: Ann and Bob dial each other, so that one of the two
// connections is for nothing.
func TestWhoComesSecondIsNotToBlame(t *testing.T) {
	t.Parallel()
	for range 4 { // whichever of the two is the lower
		inBubble(t, func(t *testing.T, l *lab) {
			l.dialsTake(retryFirst + dialTurn)
			ann, bob := l.enter("Ann"), l.enter("Bob")
			after(2*retryFirst + dialTurn + 2*tickEvery)
			for _, g := range []*guest{ann, bob} {
				g.node.mu.Lock()
				for host, d := range g.gate.hosts {
					if d.blame > 0 {
						t.Errorf("%s blames %v for %d dials", g.name, host, d.blame)
					}
				}
				g.node.mu.Unlock()
			}
		})
	}
}

// TestAnotherInItsPlaceIsALoss: Bob has died, and at his address is somebody new.
func TestAnotherInItsPlaceIsALoss(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		bob, cid := l.enter("Bob", deaf()), l.enter("Cid", deaf())
		ann := l.enter("Ann", deaf(), told(bob))
		after(time.Second)
		ann.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return ann.dialOut(ctx, network, cid.addr.String())
		}
		bob.crash()
		after(tickEvery)
		ann.wantLines(1, `^\* Bob@10.0.0.1 lost$`)
	})
}

// TestAnotherInThePlaceOfOneAtRestIsALoss, though it answers as that one would.
func TestAnotherInThePlaceOfOneAtRestIsALoss(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} { // to Ann
		inBubble(t, func(t *testing.T, l *lab) {
			bob, cid := l.enter("Bob", deaf()), l.enter("Cid", deaf())
			ann := l.enter("Ann", deaf(), listed("Bobby", bob, 2*time.Second))
			after(20 * time.Second)
			if known {
				cid.hears(ann.h().key, beacon{node: ann.id, counter: 1, port: 7700, name: "Ann"}, ann.addr.Addr())
				after(10 * time.Second)
			}
			if !ann.members()[0].idle || known && ann.peersNow() != 1 {
				t.Fatal("the connection does not rest, or the other is not known")
			}
			bob.crash()
			<-bob.ended
			l.mu.Lock()
			bob.addr, cid.addr = cid.addr, bob.addr
			l.mu.Unlock()
			after(8 * time.Second)
			ann.wantLines(1, `^\* Bob@10.0.0.1 lost$`)
		})
	}
}

// TestWhoNeverJoinedIsNotLost: it connects, says nothing, and is gone.
func TestWhoNeverJoinedIsNotLost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		v := l.visitor(ann, newKey(), "Xen", nil)
		v.says(hasNothing())
		after(time.Second)
		v.raw.Close()
		after(20 * time.Second)
		ann.wantLines(0, `.`)
	})
}

// TestHigherAsksTheLowerToDial: if both dialed at once, one of the two connections
// would be for nothing.
func TestHigherAsksTheLowerToDial(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, key := l.enter("Ann", deaf()), newKey()
		for !idOf(key).less(ann.id) {
			key = newKey()
		}
		after(time.Second)
		var asked, dialed atomic.Int32
		ann.announceSoon = func() { asked.Add(1) }
		ann.dial = func(context.Context, string, string) (net.Conn, error) {
			dialed.Add(1)
			return nil, errors.New("nobody there")
		}
		ann.hears(key, beacon{node: idOf(key), counter: 1, port: 7700}, netip.MustParseAddr("10.0.0.9"))
		after(retryFirst - time.Millisecond)
		if asked.Load() != 1 || dialed.Load() != 0 {
			t.Errorf("at first Ann sends %d beacons and dials %d times, want one beacon", asked.Load(), dialed.Load())
		}
		after(tickEvery + time.Millisecond)
		if dialed.Load() != 1 {
			t.Errorf("when nobody came Ann dials %d times, want once", dialed.Load())
		}
	})
}

// TestNodeIsToldOfAgain: Ann and Cid hear of each other from Bob alone, and are
// without a network for a while, so that dials fail at once. When Bob tells of them
// again, that makes neither wait.
func TestNodeIsToldOfAgain(t *testing.T) {
	t.Parallel()
	for cut := 14 * time.Second; cut < 24*time.Second; cut += time.Second {
		inBubble(t, func(t *testing.T, l *lab) {
			bob := l.enter("Bob", deaf())
			ann, cid := l.enter("Ann", deaf(), told(bob)), l.enter("Cid", deaf(), told(bob))
			after(10 * time.Second)
			var down atomic.Bool
			for _, g := range []*guest{ann, cid} {
				g.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if down.Load() {
						return nil, syscall.ENETUNREACH
					}
					return g.dialOut(ctx, network, addr)
				}
			}
			down.Store(true)
			l.split([]*guest{ann}, []*guest{bob, cid})
			l.split([]*guest{bob}, []*guest{cid})
			after(cut)
			down.Store(false)
			l.healAll()
			after(retryNamed + retryFirst + 2*tickEvery)
			if n := ann.peersNow(); n != 2 {
				t.Errorf("after a cut of %v Ann is connected with %d nodes, want 2", cut, n)
			}
		})
	}
}

// TestQuietPeerHearsMoreBeacons: in a large room they come seldom, and the peer may
// hear nothing else of us. The one that notices first asks for them.
func TestQuietPeerHearsMoreBeacons(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(10 * time.Second)
		var asked atomic.Int32
		for _, g := range []*guest{ann, bob} {
			g.announceSoon = func() { asked.Add(1) }
		}
		after(10 * time.Second)
		if n := asked.Load(); n != 0 {
			t.Errorf("%d beacons are asked for while both are heard, want none", n)
		}
		l.stall(ann, bob, true)
		after(suspicion + 2*tickEvery)
		if asked.Load() == 0 {
			t.Error("no beacon is asked for though the peer is quiet")
		}
	})
}

// ---- what the user is told of the network

// wantWarned fails unless g told its user just these things on standard error.
func (g *guest) wantWarned(want ...string) {
	g.l.t.Helper()
	got := g.warnings()
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && regexp.MustCompile(want[i]).MatchString(got[i])
	}
	if !ok {
		g.l.t.Errorf("%s is told %q, want %q", g.name, got, want)
	}
}

func TestWhoIsHeardButNotReachedIsToldOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob", deaf())
		cid := l.enter("Cid")
		l.blockTCP(ann, bob)
		l.blockTCP(cid, bob)
		bob.mu.Lock()
		bob.mute = false
		bob.mu.Unlock()
		after(time.Minute)
		ann.wantWarned(`^Bob@10.0.0.2 is heard, but TCP port 7700 there does not answer: a firewall\?`)
		bob.wantWarned(`^(Ann|Cid)@10.0.0.\d is heard`, `^(Ann|Cid)@10.0.0.\d is heard`)
		l.setApart(ann, bob, false)
		l.setApart(cid, bob, false)
		after(20 * time.Second)
		ann.wantLines(1, `Bob@10\.0\.0\.2\?? joined$`) // she may hear of him through Cid first
	})
	inBubble(t, func(t *testing.T, l *lab) { // one of the two can dial the other
		ann, bob := l.enter("Ann", deaf()), l.enter("Bob", deaf())
		ann.bar(bob)
		for _, g := range []*guest{ann, bob} {
			g.mu.Lock()
			g.mute = false
			g.mu.Unlock()
		}
		after(time.Minute)
		ann.wantWarned()
		bob.wantWarned()
	})
}

// TestWhoLacksAFamilyIsToldOfItOnlyWhereItMatters: Ann has no IPv4 address, say,
// and yet hears Bob's broadcasts.
func TestWhoLacksAFamilyIsToldOfItOnlyWhereItMatters(t *testing.T) {
	t.Parallel()
	for _, third := range []bool{false, true} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", low())
			bob := l.enter("Bob", apartFrom(ann))
			ann.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == bob.addr.String() {
					return nil, syscall.ENETUNREACH
				}
				return ann.dialOut(ctx, network, addr)
			}
			l.blockTCP(ann, bob)
			if third {
				l.enter("Cid")
			}
			after(time.Minute)
			if third {
				ann.wantWarned()
			} else {
				ann.wantWarned(`^Bob@10.0.0.2 is heard, but this machine has no way to 10.0.0.2; give it an address`)
			}
		})
	}
}

func TestPeerThatNeverAnswersIsToldOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		gone, far := l.enter("Gone", deaf()), l.enter("Far", deaf())
		other := l.enter("Other", deaf(), withKey(newRoomKey("of another room")))
		gone.crash()
		ann := l.enter("Ann", told(gone), listed("Table", gone, 0), deaf(), apartFrom(far))
		bob := l.enter("Bob", told(far), deaf(), apartFrom(far))
		cid := l.enter("Cid", told(other), deaf())
		after(time.Minute)
		ann.wantWarned(`^nobody answers at 10.0.0.1:7700, which -peer names \(connection refused\); check`)
		bob.wantWarned(`^nobody answers at 10.0.0.2:7700, which -peer names \(context deadline exceeded\); check`)
		cid.wantWarned(`^who answers at 10.0.0.3:7700, which -peer names, is no node of this room .*; check`)
	})
}

// TestTwoMachinesOfOneAddressAreToldOnce: Ann hears of another node at the place
// where Bob is.
func TestTwoMachinesOfOneAddressAreToldOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob, key := l.enter("Ann"), l.enter("Bob"), newKey()
		after(3 * time.Second)
		beacons := func(n int) {
			for range n {
				ann.hears(key, beacon{node: idOf(key), counter: uint64(time.Now().UnixNano()), port: 7700, name: "Twin"}, bob.addr.Addr())
				after(beaconEvery)
			}
		}
		beacons(1)
		after(time.Minute)
		ann.wantWarned() // it has gone, and Bob took its place
		beacons(10)
		ann.wantWarned(`^Twin@10.0.0.2 is heard, but Bob is at its address: two machines seem to have the address 10.0.0.2; give one of them another$`)
	})
}

// ---- where beacons go

func TestBeaconsGoToEverybodyOnALink(t *testing.T) {
	t.Parallel()
	lan := net.Interface{Index: 2, Name: "eth0", Flags: net.FlagUp | net.FlagBroadcast | net.FlagMulticast}
	odd := net.Interface{Index: 3, Name: "no\u00a0name", Flags: lan.Flags}
	tunnel := net.Interface{Index: 4, Name: "wg0", Flags: net.FlagUp | net.FlagPointToPoint | net.FlagMulticast}
	for _, c := range []struct {
		i         net.Interface
		prefix    string
		own, goes string // "": nowhere
	}{
		{lan, "192.168.0.7/24", "192.168.0.7", "192.168.0.255"},
		{lan, "10.9.0.1/15", "10.9.0.1", "10.9.255.255"},
		{lan, "10.9.0.2/31", "10.9.0.2", "255.255.255.255"},
		{lan, "10.9.0.2/32", "10.9.0.2", "255.255.255.255"},
		{lan, "fe80::7/64", "fe80::7%eth0", "ff02::1%eth0"},
		{lan, "fd00::7/128", "fd00::7", "ff02::1%eth0"},
		{odd, "fd00::7/64", "fd00::7", "ff02::1"}, // an interface that is not there has no number
		{tunnel, "10.8.0.1/24", "", ""},
		{tunnel, "fe80::8/64", "", ""},
	} {
		var l local
		p := netip.MustParsePrefix(c.prefix)
		l.add(c.i, p, p.Addr())
		switch {
		case c.goes == "":
			if len(l.segments) != 0 || !slices.Equal(l.mute, []string{c.i.Name}) {
				t.Errorf("%s on %s: announced at %v, and %v are mute", c.prefix, c.i.Name, l.segments, l.mute)
			}
		case len(l.segments) != 1 || l.segments[0].own().String() != c.own || l.segments[0].group().String() != c.goes:
			t.Errorf("%s on %s: announced at %v, want from %s to %s", c.prefix, c.i.Name, l.segments, c.own, c.goes)
		}
	}
	for own, want := range map[string]string{
		"10.9.0.1 10.8.0.1 fe80::1%eth0": "10.8.0.1", "127.0.0.1 fe80::1%eth0": "fe80::1%eth0", "127.0.0.1 ::1": "invalid IP", "": "invalid IP",
	} {
		l := local{}
		for s := range strings.FieldsSeq(own) {
			l.own = append(l.own, netip.MustParseAddr(s))
		}
		if len(l.own) > 2 {
			l.segments = []segment{{prefix: netip.MustParsePrefix("fe80::1/64"), zone: "eth0"}, {prefix: netip.MustParsePrefix("10.8.0.1/24")}}
		}
		d := new(discovery)
		d.local.Store(&l)
		if got := d.ownAddr().String(); got != want {
			t.Errorf("of %q we are at %s, want %s", own, got, want)
		}
	}
}
