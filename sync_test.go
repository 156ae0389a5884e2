package main

// Who gets what from whom, in states that a room seldom comes into: authors
// whose posts a small -keep has dropped, and nodes that reach each other
// through a third alone. Each test of one state was a bug once; the random
// rooms behind them search for more.

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

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
			cid.wantLines(1, `psst`)
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
			l.healAll()
			after(10 * time.Second)
			ann.whispers(t, bob, "psst")
			after(15 * time.Second)
			bob.wantLines(1, `psst`)
			ann.wantNoWarning(t)
		})
	})
}

// TestGapIsLeftOnlyIfNobodyCanFillIt: an author has dropped its first posts,
// and another node has them, or the older half of all.
func TestGapIsLeftOnlyIfNobodyCanFillIt(t *testing.T) {
	t.Parallel()
	for seed := range seeds() / 2 {
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
				g.wantLines(100, `: [0-9]+ x+$`)
				g.wantLines(1, `: the end$`)
			}
		})
	}
}

// TestNoGapIsLeftAtOnceWhereASourceEnds: Nat fetches slowly what Ann said, who is gone,
// and the connection with the only one who holds all of it breaks.
func TestNoGapIsLeftAtOnceWhereASourceEnds(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, rip := l.enter("Ann"), l.enter("Rip")
		l.enter("Dan", withKeep(smallKeep))
		after(3 * time.Second)
		ann.outtalks()
		ann.leaves()
		nat := l.enter("Nat", slow(8<<10))
		after(6 * time.Second)
		if got := len(l.postsOf(nat, ann.id)); got < 20 || got > 80 {
			t.Fatalf("Nat has fetched %d posts of 102", got)
		}
		nat.bar(rip)
		rip.bar(nat)
		nat.node.mu.Lock()
		nat.conns[rip.id].raw.Close()
		nat.node.mu.Unlock()
		after(time.Second)
		nat.bar(nil)
		rip.bar(nil)
		after(30 * time.Second)
		nat.wantLines(100, `Ann@.*: \d+ x`)
	})
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
		pat.wantLines(1, `psst`)
		pat.wantLines(1, `: the end`)
		ann.wantNoWarning(t)
	})
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
		ann.wantLines(5, `: something new`)
		mia.wantLines(5, `: something new`)
		ann.wantLines(1, `: line 3`)
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
		ann.wantLines(1, `: something new`)
		ann.wantLines(1, `: line 3`)
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
		ann.wantLines(0, ` lost$`)
		ann.wantLines(100, `Xen@.*: \d+ x`)
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
			ann.wantLines(20, `: hear me`)
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
		ann.wantLines(20, `: chat`)
	})
}

// TestWhatWasProvenStaysProven: an author says ten lines that it signs, and ends
// with some that it doesn't. Who comes later gets the ten.
func TestWhatWasProvenStaysProven(t *testing.T) {
	t.Parallel()
	for _, unsigned := range []int{1, 50} {
		inBubble(t, func(t *testing.T, l *lab) {
			bob := l.enter("Bob")
			after(3 * time.Second)
			x := newScribe(1, "Xen")
			run := []post{x.writes(kindJoin, time.Now().UnixMicro(), "")}
			x.began = run[0].time
			for i := range 10 {
				run = append(run, x.writes(kindLines, x.began+int64(i)+1, "signed"))
			}
			run = append(run, x.scrawled(unsigned, []byte("unsigned"))...)
			bob.h().add(x.id, run, false, true)
			after(time.Second)
			ann := l.enter("Ann")
			after(10 * time.Second)
			ann.wantLines(10, `: signed$`)
			ann.wantLines(0, `: unsigned$`)
			after(5 * time.Minute)
			ann.wantLines(10, `: signed$`)
		})
	}
}

// TestPostsFromTheFutureDriveOutNobody: of two members with the same small keep,
// one's clock is two hundred years ahead, and she says more than fits.
func TestPostsFromTheFutureDriveOutNobody(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		eve := l.enter("Eve", withKeep(smallKeep), withClock(200*365*24*time.Hour))
		ann, bob := l.enter("Ann", withKeep(smallKeep)), l.enter("Bob", withKeep(smallKeep))
		after(3 * time.Second)
		eve.outtalks()
		for i := range 30 {
			bob.says("line %d %s", i, strings.Repeat("y", 1000))
			after(time.Second)
		}
		cid := l.enter("Cid", withKeep(smallKeep))
		after(15 * time.Second)
		for _, g := range []*guest{ann, cid} {
			if n := count(g.recalls(), `: line \d+ y`); n != 30 {
				t.Errorf("%s holds %d of Bob's 30 lines", g.name, n)
			}
		}
	})
}

// ---- any topology

// TestAnyTopologyOfFaultsLosesNothing has nodes of which many reach each other
// through others alone, with ample and with small keeps, while links break and
// heal and nodes come. In the end all hear everybody; no line was ever shown
// twice; of each direct message either its receiver or its sender was told; and
// a newcomer gets all that those hold whom it reaches.
func TestAnyTopologyOfFaultsLosesNothing(t *testing.T) {
	t.Parallel()
	for seed := range seeds() * 2 / 3 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *lab) {
				w := &web{l: l, r: rand.New(rand.NewPCG(seed, 78)), small: seed%2 == 1}
				w.lives()
				w.judge(t)
				w.welcomes(t)
			})
		})
	}
}

// welcomes has a newcomer enter that reaches half of the nodes. Each of them
// may have dropped something else.
func (w *web) welcomes(t *testing.T) {
	near, far := w.nodes[:len(w.nodes)/2], w.nodes[len(w.nodes)/2:]
	zoe := w.l.enter("Zoe", withKeep(ample), apartFrom(far...))
	after(time.Minute)
	for _, author := range w.nodes {
		has, want := zoe.h().span(author.id), together(near, author.id)
		if has.first > want.first || has.last < want.last {
			t.Errorf("of %s, Zoe holds %d to %d; her peers hold %d to %d", author.name, has.first, has.last, want.first, want.last)
		}
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
				g.wantLines(1, `: final word of `+o.name+`;`)
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

// TestSlowLinkCarriesHistoryOnceAndTalkMeanwhile: a newcomer whose link carries
// 64 or 256 kbit/s has the history, in posts of 64 KiB, in about the time and
// the bytes that it takes alone, and hears what is said meanwhile.
func TestSlowLinkCarriesHistoryOnceAndTalkMeanwhile(t *testing.T) {
	t.Parallel()
	const posts, size = 8, 64000
	for _, rate := range []int{8000, 32000} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann"), l.enter("Bob")
			after(time.Second)
			line := strings.Repeat("h", 79)
			for range posts {
				ann.says("%s", strings.TrimSuffix(strings.Repeat(line+"\n", size/80), "\n"))
			}
			cid := l.enter("Cid")
			cid.says("I was here")
			after(3 * time.Second)
			cid.leaves()
			after(3 * time.Second)
			nat := l.enter("Nat", slow(rate))
			began := time.Now()
			alone := time.Duration(posts*size) * time.Second / time.Duration(rate)
			said := 0
			for time.Since(began) < alone-5*time.Second {
				after(5 * time.Second)
				from := []*guest{ann, bob}[said%2]
				from.says("live %d", said)
				after(3 * time.Second)
				nat.wantLines(1, fmt.Sprintf(`: live %d$`, said))
				if said++; t.Failed() {
					t.Logf("at %d bytes per second, %v after the start", rate, time.Since(began))
					break
				}
			}
			for len(nat.recalls()) < posts*(size/80) && time.Since(began) < 2*alone {
				after(time.Second)
			}
			took := time.Since(began)
			after(10 * time.Second)
			nat.link.mu.Lock()
			passed := nat.link.passed
			nat.link.mu.Unlock()
			if most := alone * 11 / 10; took > most {
				t.Errorf("at %d bytes per second the history is there after %v, want %v", rate, took, most)
			}
			if most := posts * size * 11 / 10; passed > most {
				t.Errorf("at %d bytes per second %d bytes came, want %d at most", rate, passed, most)
			}
			nat.wantLines(1, `\* history: \d+ events from`)
			nat.wantLines(posts*(size/80), `: h+$`)
			nat.wantLines(1, `: I was here$`)
			l.wantSame(posts*(size/80)+said+1, ann, bob, nat)
		})
	}
}

// TestLongLineOnASlowLinkIsHeard: it takes far longer than -wait to arrive, and as long
// as it arrives somebody is there.
func TestLongLineOnASlowLinkIsHeard(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob", slow(4000))
		after(10 * time.Second)
		ann.setPatience(3 * time.Second)
		ann.says("%s", strings.Repeat("x", 60_000))
		best, behind := ann.waitDelivered(context.Background())
		if n, all := ann.h().linesAbove(best); n > 0 || !all || len(behind) > 0 {
			t.Errorf("nobody heard %d lines, and %q lag behind", n, behind)
		}
		bob.wantLines(1, `: x+$`)
	})
}

// TestWhoBringsSomethingIsTrustedAgain: that a peer brought nothing when it was asked
// counts against it only until it brings something.
func TestWhoBringsSomethingIsTrustedAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(time.Second)
		stalls := func(change uint64) uint64 {
			ann.node.mu.Lock()
			defer ann.node.mu.Unlock()
			c := ann.conns[bob.id]
			x := c.theirs[bob.id]
			x.stalls += change
			c.theirs[bob.id] = x
			return x.stalls
		}
		stalls(maxStalls)
		bob.says("hi")
		after(time.Second)
		if n := stalls(0); n > 0 {
			t.Errorf("%d stalls count, want none", n)
		}
	})
}
