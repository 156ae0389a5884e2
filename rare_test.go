package main

// States that a room seldom comes into: authors whose posts a small -keep has
// dropped, nodes that reach each other through a third, connections that break
// in the very moment in which somebody leaves. Each test here was a bug once.

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

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

// counts has g say line 0 to line 4, a second each.
func (g *guest) counts() {
	for i := range 5 {
		g.says("line %d", i)
		after(time.Second)
	}
}

func (g *guest) wantNoWarning(t *testing.T) {
	t.Helper()
	if w := g.warnings(); len(w) > 0 {
		t.Errorf("%s is told %q", g.name, w)
	}
}

func TestDirectMessageWaitsForNoPostThatWasDropped(t *testing.T) {
	t.Parallel()
	t.Run("to a newcomer", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann", withKeep(smallKeep)), l.enter("Bob", withKeep(smallKeep))
			after(3 * time.Second)
			bob.outtalks()
			cid := l.enter("Cid", withKeep(smallKeep))
			after(5 * time.Second)
			ann.whispers(t, cid, "psst")
			after(15 * time.Second)
			cid.wantCount(1, `psst`)
			ann.wantNoWarning(t)
		})
	})
	t.Run("to one who waits for somebody to fill the gap", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", withKeep(smallKeep))
			after(3 * time.Second)
			ann.outtalks()
			cid := l.enter("Cid")
			after(time.Second)
			ann.whispers(t, cid, "psst")
			after(300 * time.Millisecond)
			if whenIn(cid, "psst") == 0 {
				t.Error("the message waits as well")
			}
		})
	})
	t.Run("after a cut", func(t *testing.T) {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann", withKeep(smallKeep)), l.enter("Bob", withKeep(smallKeep))
			after(3 * time.Second)
			bob.outtalks()
			l.setApart(ann, bob, true)
			after(20 * time.Second)
			l.heal()
			after(10 * time.Second)
			ann.whispers(t, bob, "psst")
			after(15 * time.Second)
			bob.wantCount(1, `psst`)
			ann.wantNoWarning(t)
		})
	})
}

// TestGapIsLeftOnlyIfNobodyCanFillIt: an author has dropped its first posts,
// and another node has them, or the older half of all.
func TestGapIsLeftOnlyIfNobodyCanFillIt(t *testing.T) {
	t.Parallel()
	for seed := range seeds() {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, cid := l.enter("Ann", withKeep(smallKeep)), l.enter("Cid")
			rip := l.enter("Rip")
			after(3 * time.Second)
			l.split([]*guest{ann, cid}, []*guest{rip})
			after(20 * time.Second)
			for i := range 100 {
				if seed%2 == 1 && i == 80 {
					l.setApart(ann, cid, true)
					after(20 * time.Second)
				}
				ann.says("%d %s", i, strings.Repeat("x", 1000))
				after(100 * time.Millisecond)
			}
			l.setApart(rip, ann, false)
			l.setApart(rip, cid, false)
			nat := l.enter("Nat")
			after(20 * time.Second)
			ann.says("the end")
			after(20 * time.Second)
			for _, g := range []*guest{rip, nat} {
				g.wantCount(100, `: [0-9]+ x+$`)
				g.wantCount(1, `: the end$`)
			}
		})
	}
}

// TestAuthorIsNotToldToStop: a newcomer asks an author for its own feed, since
// its first posts were dropped, and then hears of newer ones by another.
func TestAuthorIsNotToldToStop(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, nat := l.enter("Ann", withKeep(smallKeep)), l.enter("Nat")
		after(3 * time.Second)
		ann.outtalks()
		pat := l.enter("Pat", apartFrom(nat))
		after(10 * time.Second)
		l.setApart(nat, pat, false)
		for i := 0; pat.peersNow() < 2 && i < 10; i++ {
			l.setApart(ann, pat, true) // a slow link, for a moment
			ann.says("held up %d", i)
			for k := 0; k < 20 && pat.peersNow() < 2; k++ {
				after(100 * time.Millisecond)
			}
			after(500 * time.Millisecond)
			l.setApart(ann, pat, false)
			after(300 * time.Millisecond)
		}
		after(5 * time.Second)
		ann.whispers(t, pat, "psst")
		after(12 * time.Second)
		nat.leaves()
		after(5 * time.Second)
		ann.says("the end")
		after(time.Minute)
		pat.wantCount(1, `psst`)
		pat.wantCount(1, `: the end`)
		ann.wantNoWarning(t)
	})
}

// TestClaimIsBelievedLastWhenItCameToNothing: who says it has all is asked
// before who has the last alone, until that has failed three times.
func TestClaimIsBelievedLastWhenItCameToNothing(t *testing.T) {
	t.Parallel()
	author := nodeID{9}
	n := &node{conns: map[nodeID]*conn{}, sources: map[nodeID]*source{}}
	has := func(id byte, first, stalls uint64) *conn {
		c := &conn{n: n, complete: true, theirs: map[nodeID]claim{author: {span: span{first, 9, 0}, stalls: stalls}}}
		n.conns[nodeID{id}] = c
		return c
	}
	last := has(1, 6, 0)
	for stalls := range uint64(2 * maxStalls) {
		all := has(2, 1, stalls)
		want := all
		if stalls >= maxStalls {
			want = last
		}
		if best, _ := n.bestLocked(author, 0); best != want {
			t.Errorf("after %d times of nothing, who says it has all is asked first: %v", stalls, best == all)
		}
	}
}

// TestStaleClaimsAreSeenThrough: two nodes that have dropped an author's posts
// still hold each other to have them, while a third has the new ones.
func TestStaleClaimsAreSeenThrough(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, bob := l.enter("Cid"), l.enter("Bob", withKeep(smallKeep))
		mia := l.enter("Mia", withKeep(smallKeep), apartFrom(cid))
		ann := l.enter("Ann", withKeep(smallKeep), apartFrom(cid))
		after(5 * time.Second)
		cid.counts()
		bob.outtalks()
		for i := range 5 {
			cid.says("something new %d", i)
			after(10 * time.Second)
		}
		after(time.Minute)
		ann.wantCount(5, `: something new`)
		mia.wantCount(5, `: something new`)
		ann.wantCount(1, `: line 3`)
	})
}

func TestForgottenAuthorsOldMessagesAreNotShownAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, bob := l.enter("Cid"), l.enter("Bob")
		ann := l.enter("Ann", withKeep(smallKeep), apartFrom(cid))
		after(5 * time.Second)
		cid.counts()
		bob.outtalks()
		cid.says("something new")
		after(5 * time.Second)
		ann.wantCount(1, `: something new`)
		ann.wantCount(1, `: line 3`)
	})
}

// TestForgottenAuthorComesBackAsItself: an old note of an author that was
// forgotten is dropped while the author is there again.
func TestForgottenAuthorComesBackAsItself(t *testing.T) {
	t.Parallel()
	now := wallClock(scribeTime)
	h := emptyHistory(smallKeep, now.now)
	x, y := newScribe(1, "Xen"), newScribe(2, "Yan")
	tick := func() int64 { now += 1e6; return int64(now) }
	var drain batch
	chat := func() {
		h.add(y.id, []post{y.writes(kindLines, tick(), strings.Repeat("y", 2000))}, true, false)
		for h.take(h.printer, &drain, ample) {
		}
	}
	h.add(x.id, []post{x.writes(kindJoin, tick(), "")}, true, false)
	for range 20 {
		chat()
	}
	h.note(x.id, post{kind: kindLost, time: tick()})
	for range 15 {
		chat()
	}
	h.reached(x.id, x.addr, "Xen")
	h.note(x.id, post{kind: kindBack})
	hello := x.writes(kindLines, tick(), "hello")
	h.add(x.id, []post{hello}, true, true)
	for range 25 {
		chat()
	}
	if n, err := h.add(x.id, []post{hello}, true, true); n != 0 || err != nil {
		t.Errorf("of what was taken already %d posts are taken again, %v", n, err)
	}
	if known := h.about(x.id); known.last != hello.number || known.name != "Xen" {
		t.Errorf("Xen is known as %q up to post %d", known.name, known.last)
	}
}

// TestLinesDroppedUnheardAreCounted, and no longer once somebody turns out to
// have them.
func TestLinesDroppedUnheardAreCounted(t *testing.T) {
	t.Parallel()
	h := emptyHistory(smallKeep, time.Now)
	var drain batch
	for range 200 {
		h.say(kindLines, []byte("one\ntwo"+strings.Repeat("x", 1000)))
		h.take(h.printer, &drain, ample)
		h.setDelivered(h.about(h.self).last, 0)
	}
	if n := h.linesAbove(0); n != 400 {
		t.Errorf("%d lines are unheard, want 400", n)
	}
	last := h.about(h.self).last
	h.setDelivered(last, last)
	if n := h.linesAbove(last); n != 0 {
		t.Errorf("%d lines are unheard, want none", n)
	}
}

func TestClockFarAheadShutsNobodyOutLater(t *testing.T) {
	t.Parallel()
	now := wallClock(scribeTime)
	h := emptyHistory(smallKeep, now.now)
	early, late := newScribe(1, "Early"), newScribe(2, "Late")
	var drain batch
	for i := range 100 { // a year ahead
		h.add(early.id, []post{early.writes(kindLines, scribeTime+365*24*3600e6+int64(i), strings.Repeat("x", 2000))}, true, false)
		h.take(h.printer, &drain, ample)
	}
	now += 60e6
	h.add(late.id, []post{late.writes(kindJoin, int64(now), "")}, true, false)
	if !h.take(h.printer, &drain, ample) || drain[0].feed.id != late.id {
		t.Error("a newcomer with the right clock is not shown")
	}
}

func TestAcknowledgedDirectMessageOutlivesTheWait(t *testing.T) {
	t.Parallel()
	now := wallClock(scribeTime)
	h := emptyHistory(smallKeep, now.now)
	x, y := newScribe(1, "Xen"), newScribe(2, "Yan")
	h.reached(x.id, x.addr, "Xen")
	h.hold()
	h.note(x.id, post{kind: kindDirectFrom, addr: x.addr, text: []byte("psst")})
	for range 60 {
		now += 1e6
		h.add(y.id, []post{y.writes(kindLines, int64(now), strings.Repeat("y", 2000))}, true, false)
	}
	h.release(map[nodeID]uint64{}, "Xen", func(nodeID) bool { return true })
	printed := false
	var b batch
	for h.take(h.printer, &b, ample) {
		printed = printed || slices.ContainsFunc(b, func(e *event) bool { return e.kind == kindDirectFrom })
	}
	if !printed {
		t.Error("a direct message that was acknowledged is never printed")
	}
}

// TestSightingsAreToldOnce: who changes the node that it hears of Xen by hears
// of what happened an hour ago from both.
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
		after(time.Hour)
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
		ann.wantCount(1, `: three`)
		ann.wantCount(1, `Xen@10.0.0.1 lost`)
		ann.wantCount(1, `Xen@10.0.0.1 is back`)
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
		bob.wantCount(1, `Cid@10.0.0.1 lost`)
		ann.wantCount(1, `Cid@10.0.0.1 lost`)
	})
}

// TestSlowHolderIsWaitedFor: Bob has all that Xen said, but lags for a moment;
// Dan, who keeps little, has only the last of it.
func TestSlowHolderIsWaitedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		xen, bob := l.enter("Xen"), l.enter("Bob")
		l.enter("Dan", withKeep(smallKeep))
		after(3 * time.Second)
		xen.outtalks()
		after(5 * time.Second)
		ann := l.enter("Ann", apartFrom(xen))
		after(100 * time.Millisecond)
		l.setApart(ann, bob, true)
		after(3 * time.Second)
		l.setApart(ann, bob, false)
		after(30 * time.Second)
		ann.wantCount(0, ` lost$`)
		ann.wantCount(100, `Xen@.*: \d+ x`)
	})
}

func TestSmallKeepHidesNobodyWhoseClockIsOff(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-6 * time.Minute, 10 * time.Minute} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann", withKeep(smallKeep), withClock(off)), l.enter("Bob", withClock(-off))
			after(3 * time.Second)
			ann.outtalks()
			for i := range 20 {
				bob.says("hear me %d", i)
				after(2 * time.Second)
			}
			ann.wantCount(20, `: hear me`)
		})
	}
}

// TestNewcomerDoesNotWaitForWhatNobodyCanGive: a post that is announced, and
// turns out not to be signed, holds up nobody's screen while others chat.
func TestNewcomerDoesNotWaitForWhatNobodyCanGive(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		bob, dan := l.enter("Bob"), l.enter("Dan")
		after(3 * time.Second)
		x := newScribe(1, "Xen")
		p := x.writes(kindJoin, time.Now().UnixMicro(), "")
		p.sealed[len(p.sealed)-1] ^= 1
		bob.h().add(x.id, []post{p}, false, true)
		after(time.Second)
		ann := l.enter("Ann")
		for range 20 {
			dan.says("chat")
			after(time.Second)
		}
		ann.wantCount(20, `: chat`)
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
			ann.wantCount(1, `Xen@10.0.0.1 is back`)
			xen.crash()
			after(20 * time.Second)
			ann.wantCount(2, `Xen@10.0.0.1 lost`)
		})
	}
}

func TestLinkThatHealsIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	for cut := 60 * time.Second; cut < 70*time.Second; cut += 2 * time.Second {
		inBubble(t, func(t *testing.T, l *lab) {
			xen, _, ann := l.enter("Xen"), l.enter("Bob"), l.enter("Ann") // Bob tells both of each other
			after(5 * time.Second)
			l.setApart(ann, xen, true)
			after(cut)
			l.heal()
			after(5 * time.Second)
			if ann.peersNow() != 2 {
				t.Errorf("not connected 5 s after a cut of %v", cut)
			}
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
		ann.wantCount(1, `Bob@10.0.0.2 left$`)
		ann.wantCount(0, `lost`)
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
			ann.wantCount(60, `: line`)
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
			ann.wantCount(1, `: line`)
		})
	})
}

func TestPrivateLineStaysPrivateHoweverManyNamesThereWere(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, time.Now)
	x, tim := newScribe(1, "X"), newScribe(2, "Tim")
	for i := range maxNames + 1 {
		h.add(x.id, []post{x.writes(kindRename, scribeTime+int64(i), fmt.Sprint("X", i))}, true, false)
	}
	h.reached(tim.id, tim.addr, "Tim")
	a := &app{cfg: &config{}, h: h}
	if _, toAll := a.message([]byte("Tim/the key is under the mat")); toAll {
		t.Error("Tim/text is a message to everybody, though Tim is here")
	}
}

// ---- any topology

// TestAnyTopologyOfFaultsLosesNothing has nodes of which many reach each other
// through others alone, with ample and with small keeps, while links break and
// heal and nodes come. In the end all hear everybody; no line was ever shown
// twice; and of each direct message either its receiver or its sender was told.
func TestAnyTopologyOfFaultsLosesNothing(t *testing.T) {
	t.Parallel()
	for seed := range seeds() / 2 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				w := &web{l: l, r: rand.New(rand.NewPCG(seed, 78))}
				w.small = w.r.IntN(3) == 0
				w.lives()
				w.judge(t)
			})
		})
	}
}

// TestNewcomerGetsAllThatItsPeersHold, though each of them has dropped something
// else.
func TestNewcomerGetsAllThatItsPeersHold(t *testing.T) {
	t.Parallel()
	for seed := range seeds() / 2 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				w := &web{l: l, r: rand.New(rand.NewPCG(seed, 79)), small: true}
				w.lives()
				near, far := w.nodes[:len(w.nodes)/2], w.nodes[len(w.nodes)/2:]
				zoe := l.enter("Zoe", withKeep(ample), apartFrom(far...))
				after(time.Minute)
				for _, author := range w.nodes {
					has, want := zoe.h().span(author.id), together(near, author.id)
					if has.first > want.first || has.last < want.last {
						t.Errorf("of %s, Zoe holds %d to %d; her peers hold %d to %d", author.name, has.first, has.last, want.first, want.last)
					}
				}
			})
		})
	}
}

// together returns the newest posts of author that nodes hold between them
// without a gap.
func together(nodes []*guest, author nodeID) (all span) {
	var held []span
	for _, g := range nodes {
		if s := g.h().span(author); s.last > 0 {
			held = append(held, s)
			all.last = max(all.last, s.last)
		}
	}
	slices.SortFunc(held, func(a, b span) int { return cmp.Compare(b.last, a.last) })
	all.first = all.last + 1
	for _, s := range held {
		if s.last+1 >= all.first {
			all.first = min(all.first, s.first)
		}
	}
	return all
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
			for i := range byte(20) {
				ann.heard(beacon{node: nodeID{255, i}, counter: 1, port: 1000}, host)
				after(20 * time.Millisecond)
			}
			if bob := l.enter("Bob"); bob.addr.Addr() != host {
				t.Fatal("Bob is elsewhere")
			}
			after(700 * time.Millisecond)
			ann.wantCount(1, `^\* Bob@10.0.0.2 joined$`)
		})
	}
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
		l.heal()
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
			g.wantCount(1, `^\* Cid@10.0.0.1 lost$`)
		}
	})
}

// ---- members that insist

// A nag is a member that says one thing again and again to the node that it is
// connected with.
type nag struct {
	*visitor
	ended chan struct{} // closed when the connection has
}

// nag begins with an empty vector, and then says what the node is to hear at
// each interval. answer, if there is one, gets what the node says.
func (l *lab) nag(g *guest, every time.Duration, say func(i int) []byte, answer func(n nag, typ byte, body []byte)) nag {
	near, far := l.wire(&guest{addr: netip.MustParseAddrPort("10.9.9.9:9")}, g)
	g.offer <- far
	v, err := visit(near, l.key, newKey(), helloOf("Mallory"))
	must(l.t, err)
	n := nag{v, make(chan struct{})}
	n.says(hasNothing())
	go func() { // ends with the connection, which the end of g closes at the latest
		defer near.Close()
		defer close(n.ended)
		for {
			typ, body, err := readFrame(n.tls, maxFrame)
			if err != nil {
				return
			}
			if answer != nil {
				answer(n, typ, body)
			}
		}
	}()
	go func() { // likewise
		for i := 0; ; i++ {
			select {
			case <-time.After(every):
				n.says(say(i))
			case <-n.ended:
				return
			}
		}
	}()
	return n
}

// claims is the HAVE of one author.
func claims(author nodeID, s span, at netip.AddrPort) []byte {
	return framed(frameHave, frameList{ids: []nodeID{author}, spans: []span{s}, addrs: []netip.AddrPort{at}}.have())
}

// behind has Ann hear Cid through Bob alone.
func (l *lab) behind() (cid, bob, ann *guest) {
	cid, bob = l.enter("Cid"), l.enter("Bob")
	ann = l.enter("Ann", apartFrom(cid))
	after(5 * time.Second)
	return cid, bob, ann
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
		ann.wantCount(20, `: line`)
	})
}

// TestNobodyHasHeardWhatWasNotSaid: somebody acknowledges all that Ann will
// ever say, and goes; what she says then is heard by nobody.
func TestNobodyHasHeardWhatWasNotSaid(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		mallory := l.nag(ann, time.Second, func(int) []byte { return claims(ann.id, span{1, 1 << 40, 1}, netip.AddrPort{}) }, nil)
		after(3 * time.Second)
		mallory.raw.Close()
		after(10 * time.Second)
		ann.patience = time.Second
		ann.says("is anybody there?")
		if best, _, _ := ann.waitDelivered(context.Background()); ann.h().linesAbove(best) != 1 {
			t.Error("what Ann said counts as heard")
		}
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
			g.wantCount(1, ` is back$`)
		}
	})
}

// TestSightingFromTheFutureIsNotBelieved, and doesn't keep true ones from being.
func TestSightingFromTheFutureIsNotBelieved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		cid, _, ann := l.behind()
		mallory := l.nag(ann, time.Second, func(int) []byte { return claims(cid.id, span{1, 100, 1}, netip.AddrPort{}) },
			func(n nag, typ byte, body []byte) {
				if typ == frameWant {
					n.says(appendSeen(nil, sighting{cid.id, kindLost, latestTime, []byte("Cid"), cid.addr}))
				}
			})
		after(10 * time.Second)
		mallory.raw.Close()
		after(10 * time.Second)
		ann.wantCount(0, `Cid.* lost$`)
		cid.crash()
		after(20 * time.Second)
		ann.wantCount(1, `Cid.* lost$`)
	})
}

// ---- any states

// A web is a room in which only some nodes can reach each other.
type web struct {
	l     *lab
	r     *rand.Rand
	small bool // some keep little
	nodes []*guest
	links [][2]*guest
}

func (w *web) one() *guest { return w.nodes[w.r.IntN(len(w.nodes))] }

// enters adds a node that reaches at least one other.
func (w *web) enters(name string) {
	var opts []option
	if w.small {
		opts = append(opts, withKeep([]int64{smallKeep, 2 * smallKeep, ample}[w.r.IntN(3)]))
	}
	var near, far []*guest
	for i, sure := 0, w.r.IntN(max(1, len(w.nodes))); i < len(w.nodes); i++ {
		if i == sure || w.r.IntN(4) == 0 {
			near = append(near, w.nodes[i])
		} else {
			far = append(far, w.nodes[i])
		}
	}
	g := w.l.enter(name, append(opts, apartFrom(far...))...)
	for _, o := range near {
		w.links = append(w.links, [2]*guest{g, o})
	}
	w.nodes = append(w.nodes, g)
}

func (w *web) heal() {
	for _, p := range w.links {
		w.l.setApart(p[0], p[1], false)
	}
}

func (w *web) lives() {
	r := w.r
	for i := range 4 + r.IntN(3) {
		w.enters(fmt.Sprint("N", i))
	}
	pad := func() string {
		if w.small {
			return strings.Repeat("x", r.IntN(6000))
		}
		return ""
	}
	secrets := 0
	for step := range 60 {
		g := w.one()
		switch k := r.IntN(24); {
		case k < 9:
			g.says("%s said %d;%s", g.name, step, pad())
		case k < 11:
			for i := range r.IntN(30) {
				g.says("%s burst %d %d;%s", g.name, step, i, pad())
				after(time.Duration(r.IntN(20)) * time.Millisecond)
			}
		case k < 14:
			if all := g.members(); len(all) > 0 {
				secrets++
				g.sendDirect(all[r.IntN(len(all))], fmt.Appendf(nil, "secret %d of %s", secrets, g.name))
			}
		case k < 17:
			p := w.links[r.IntN(len(w.links))]
			w.l.setApart(p[0], p[1], r.IntN(2) == 0)
		case k < 18:
			w.heal()
		case k < 19 && len(w.nodes) < 8:
			w.enters(fmt.Sprint("M", step))
		default:
			after(time.Duration(r.IntN(9000)) * time.Millisecond)
		}
		if r.IntN(3) == 0 {
			after(time.Duration(r.IntN(300)) * time.Millisecond)
		}
	}
	w.heal()
	after(40 * time.Second)
	for _, g := range w.nodes {
		g.says("final word of %s;", g.name)
		after(100 * time.Millisecond)
	}
	after(15 * time.Second)
}

func (w *web) judge(t *testing.T) {
	heard := map[string]int{} // secrets
	for _, g := range w.nodes {
		lines := map[string]int{}
		for _, s := range g.screen() {
			if _, text, ok := strings.Cut(s, " -> me: "); ok {
				heard[text]++
			} else if text, _, ok := strings.Cut(s, ";"); ok {
				lines[text]++
			}
		}
		was := map[string]string{} // what each node did last
		for _, s := range g.screen() {
			who, did, ok := strings.Cut(strings.TrimPrefix(s, "* "), " ")
			if !ok || !strings.HasPrefix(s, "* ") || !strings.Contains(who, "@") {
				continue
			}
			if did == was[who] {
				t.Errorf("%s shows that %s %s, which %s before", g.name, who, did, was[who])
			}
			was[who] = did
		}
		for text, n := range lines {
			if n != 1 {
				t.Errorf("%s shows %q %d times", g.name, text, n)
			}
		}
		for _, o := range w.nodes {
			if o != g {
				g.wantCount(1, `: final word of `+o.name+`;`)
			}
		}
	}
	for _, g := range w.nodes {
		told := strings.Join(g.warnings(), "\n")
		for _, s := range g.screen() {
			_, text, ok := strings.Cut(s, ": secret ")
			if text = "secret " + text; !ok || !strings.Contains(s, " (me) -> ") {
				continue
			}
			if n := heard[text]; n > 1 || n == 0 && !strings.Contains(told, strconv.Quote(text)) {
				t.Errorf("%q was shown %d times, and its sender told of %q", text, n, told)
			}
		}
	}
}
