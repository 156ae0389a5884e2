package main

// The laws of the history: union, order, bounds, time, and the file. Random
// tests print their seed, and run again with it from P2PCHAT_SEED.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// seeded calls f with several random sources, the seed of each in its name.
func seeded(t *testing.T, seeds int, f func(t *testing.T, r *rand.Rand)) {
	t.Helper()
	first := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("P2PCHAT_SEED"), 10, 64); err == nil {
		first, seeds = n, 1
	}
	for seed := first; seed < first+uint64(seeds); seed++ {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { f(t, rand.New(rand.NewPCG(seed, 2))) })
	}
}

// A wallClock is a clock that a test sets, µs since 1970.
type wallClock int64

func (c *wallClock) now() time.Time { return time.UnixMicro(int64(*c)) }

var someone = newScribe(200, "Me")

// emptyHistory returns an empty history of somebody who is none of the authors of
// these tests.
func emptyHistory(keep int64, clock func() time.Time) *history {
	s := someone
	h := newHistory(s.key, keep, clock, func() netip.AddrPort { return s.addr })
	h.reached(s.id, s.addr, s.name)
	return h
}

// aDayLater is a clock by which whatever a scribe writes is past.
func aDayLater() time.Time { return time.UnixMicro(scribeTime).Add(24 * time.Hour) }

const ample = 1 << 30 // keep, where it is not what is tested

// contents returns what h holds in chronological order, as bytes that two
// histories have alike.
func (h *history) contents() (all []string) {
	for _, e := range h.chronology() {
		all = append(all, string(e.feed.id[:])+string(e.sealed))
	}
	return all
}

// checkBooks fails unless the sums that h keeps are those of what it holds.
func checkBooks(t *testing.T, h *history) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	size, owed, seq := int64(0), int64(0), uint64(0)
	held := map[*feed]int{}
	waiting := map[*cursor]int64{}
	last := &h.end
	for e := h.end.later; e != &h.end; last, e = e, e.later {
		size += e.cost()
		for _, c := range h.cursors {
			if e.seq >= c.next.seq {
				waiting[c] += e.cost()
			}
		}
		if held[e.feed]++; held[e.feed] == 1 {
			size += authorCost
		}
		if e.seq <= seq || e.earlier != last {
			t.Errorf("event %d of the log stands after %d", e.seq, seq)
		}
		seq = e.seq
	}
	if size != h.size || seq >= h.end.seq || last != h.end.earlier {
		t.Errorf("its size is %d and its next event %d, but it holds %d bytes, the last of event %d", h.size, h.end.seq, size, seq)
	}
	for _, c := range h.cursors {
		if c.waiting != waiting[c] || c.next.later == nil {
			t.Errorf("%d bytes are said to wait for the cursor at event %d, it is %d", c.waiting, c.next.seq, waiting[c])
		}
	}
	for id, f := range h.feeds {
		if held[f] != f.held || h.feeds[f.id] != f {
			t.Errorf("%v is said to have %d events in the log, but has %d", id, f.held, held[f])
		}
		for i := range f.posts.count {
			e := f.posts.event(i)
			p := e.content()
			if p.number != f.last-uint64(f.posts.count-1-i) || e.feed != f {
				t.Errorf("post %d of %v stands %d-th of %d up to %d", p.number, id, i, f.posts.count, f.last)
			}
			if id == h.self && p.number > h.delivered {
				owed += e.cost()
			}
		}
	}
	if owed != h.owed {
		t.Errorf("%d bytes of our own are said to be owed, it is %d", h.owed, owed)
	}
	for i, s := range h.oldest {
		if s.place != i+1 || s.count == 0 || i > 0 && h.oldest.Less(i, (i-1)/2) {
			t.Errorf("the %d-th of those that may be dropped is out of place", i)
		}
	}
}

// ownPosts returns what h holds of its own that was said after number.
func (h *history) ownPosts(number uint64) (all []*event) {
	f := h.feeds[h.self]
	for i := f.above(number); i < f.posts.count; i++ {
		all = append(all, f.posts.event(i))
	}
	return all
}

// ---- union

// someAuthors returns some authors, each with what it said: at random times, so
// that they mix.
func someAuthors(r *rand.Rand, n, posts int) (runs [][]post, ids []nodeID) {
	for i := range n {
		s := newScribe(i+1, fmt.Sprint("N", i))
		at := int64(scribeTime)
		var run []post
		for k := range 1 + r.IntN(posts) {
			at += 1 + r.Int64N(3e6)
			kind := byte(kindLines)
			if k == 0 {
				kind = kindJoin
			}
			run = append(run, s.writes(kind, at, fmt.Sprintf("line %d", k)))
		}
		runs, ids = append(runs, run), append(ids, s.id)
	}
	return runs, ids
}

func TestAnyInterleavingOfPostsEndsInOneHistory(t *testing.T) {
	t.Parallel()
	seeded(t, 12, func(t *testing.T, r *rand.Rand) {
		runs, ids := someAuthors(r, 5, 30)
		var want []string
		for range 4 {
			h := emptyHistory(ample, time.Now)
			last := make([]uint64, len(runs))
			for missing := len(runs); missing > 0; {
				i := r.IntN(len(runs))
				from := r.IntN(len(runs[i]))
				run := runs[i][from : from+1+r.IntN(len(runs[i])-from)]
				end := run[len(run)-1].number
				count, err := h.add(ids[i], slices.Clone(run), r.IntN(2) == 0, false)
				switch gap := run[0].number > last[i]+1; {
				case gap && (err != errGap || count != 0):
					t.Fatalf("posts %d to %d after %d: took %d, %v", run[0].number, end, last[i], count, err)
				case !gap && (err != nil || count != int(end-min(end, last[i]))):
					t.Fatalf("posts %d to %d after %d: took %d, %v", run[0].number, end, last[i], count, err)
				case !gap && end > last[i]:
					if last[i] = end; end == uint64(len(runs[i])) {
						missing--
					}
				}
				if last[i] > 0 {
					if s := (span{1, last[i], runs[i][last[i]-1].link.mark()}); h.span(ids[i]) != s {
						t.Fatalf("holds %+v, want %+v", h.span(ids[i]), s)
					}
				}
			}
			checkBooks(t, h)
			got := h.contents()
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Fatal("the same posts in another order of arrival end in another history")
			}
		}
		n := 0
		for _, run := range runs {
			n += len(run)
		}
		if len(want) != n {
			t.Errorf("holds %d posts, want %d", len(want), n)
		}
	})
}

// learn has h take from o whatever it lacks, as a peer's subscription would.
func (h *history) learn(o *history) *history {
	for id := range o.vector() {
		for {
			last := h.about(id).last
			events, from := o.posts(id, last+1, maxRun)
			if len(events) == 0 {
				break
			}
			var run []post
			for _, e := range events {
				run = append(run, noError(parsePost(id, e.sealed)))
			}
			if _, err := h.add(id, run, true, from > last+1); err != nil {
				break
			}
		}
	}
	return h
}

func TestMergingIsAUnion(t *testing.T) {
	t.Parallel()
	seeded(t, 20, func(t *testing.T, r *rand.Rand) {
		runs, ids := someAuthors(r, 4, 12)
		var upto [3][4]int
		for i := range upto {
			for j := range runs {
				upto[i][j] = r.IntN(len(runs[j]) + 1)
			}
		}
		some := func(i int) *history {
			h := emptyHistory(ample, time.Now)
			for j, run := range runs {
				h.add(ids[j], slices.Clone(run[:upto[i][j]]), true, false)
			}
			return h
		}
		same := func(law string, a, b *history) {
			t.Helper()
			if !slices.Equal(a.contents(), b.contents()) {
				t.Errorf("merging is not %s", law)
			}
		}
		same("commutative", some(0).learn(some(1)), some(1).learn(some(0)))
		same("associative", some(0).learn(some(1)).learn(some(2)), some(0).learn(some(1).learn(some(2))))
		same("idempotent", some(0).learn(some(1)), some(0).learn(some(1)).learn(some(1)))
		same("neutral towards nothing", some(0).learn(emptyHistory(ample, time.Now)), some(0))
		all := some(0).learn(some(1)).learn(some(2))
		for j, id := range ids {
			last := all.about(id).last
			if want := max(upto[0][j], upto[1][j], upto[2][j]); int(last) != want {
				t.Errorf("holds %d posts of author %d, want %d", last, j, want)
			}
		}
		checkBooks(t, all)
	})
}

func TestChronologyIsTimeThenAuthor(t *testing.T) {
	a, b := newScribe(1, "Ann"), newScribe(2, "Bob")
	if b.id.less(a.id) {
		a, b = b, a
	}
	h := emptyHistory(ample, time.Now)
	late := []post{b.writes(kindJoin, scribeTime, ""), b.writes(kindLines, scribeTime+5, "last")}
	early := []post{a.writes(kindJoin, scribeTime, ""), a.writes(kindLines, scribeTime+1, "third")}
	h.add(b.id, late, true, false)
	h.add(a.id, early, true, false)
	got := h.contents()
	want := []string{string(a.id[:]) + string(early[0].sealed), string(b.id[:]) + string(late[0].sealed),
		string(a.id[:]) + string(early[1].sealed), string(b.id[:]) + string(late[1].sealed)}
	if !slices.Equal(got, want) {
		t.Errorf("chronology is %q, want %q", got, want)
	}
}

// ---- gaps and forks

func TestPostsAfterAGapAreTakenOnlyWhenAsked(t *testing.T) {
	vic := newScribe(1, "Vic")
	run := vic.chat(10)
	h := emptyHistory(ample, time.Now)
	h.add(vic.id, run[:3:3], true, false)
	if n, err := h.add(vic.id, run[5:7:7], true, false); err != errGap || n != 0 {
		t.Errorf("took %d posts after a gap, %v", n, err)
	}
	if n, err := h.add(vic.id, run[5:7:7], true, true); err != nil || n != 2 {
		t.Errorf("took %d posts over a gap, %v", n, err)
	}
	if got, want := h.span(vic.id), (span{6, 7, run[6].link.mark()}); got != want {
		t.Errorf("holds %+v, want %+v", got, want)
	}
	if n := len(h.chronology()); n != 5 {
		t.Errorf("%d events can be looked at, want the 3 before the gap and the 2 after", n)
	}
	if events, from := h.posts(vic.id, 1, maxRun); from != 6 || len(events) != 2 {
		t.Errorf("passes on %d posts from %d on, want 2 from 6 on", len(events), from)
	}
	if n, err := h.add(vic.id, run[3:5:5], true, true); n != 0 || err != nil {
		t.Errorf("took %d posts of before, %v", n, err)
	}
	checkBooks(t, h)
}

func TestForkedAuthorIsTakenNoFurther(t *testing.T) {
	for name, fork := range map[string]func(*scribe, []post) []post{
		"another post of the same number": func(s *scribe, run []post) []post {
			s.last = run[1]
			return []post{s.writes(kindLines, run[2].time, "otherwise")}
		},
		"a post that follows on another": func(s *scribe, run []post) []post {
			s.last = run[1]
			return []post{s.writes(kindLines, run[2].time, "otherwise"), s.writes(kindLines, run[2].time+1, "and on")}[1:]
		},
		"a post after its leave": func(s *scribe, _ []post) []post {
			return []post{s.writes(kindLines, scribeTime+9e6, "not gone")}
		},
		"a post after its leave and a gap": func(s *scribe, _ []post) []post {
			s.writes(kindLines, scribeTime+8e6, "missing")
			return []post{s.writes(kindLines, scribeTime+9e6, "not gone")}
		},
		"a post that is earlier": func(s *scribe, run []post) []post {
			return []post{s.writes(kindLines, run[2].time, "at the same time")}
		},
		"another first post after the first": func(s *scribe, run []post) []post {
			o := newScribe(1, "Vic")
			return []post{o.writes(kindJoin, scribeTime, "otherwise"), o.writes(kindLines, scribeTime+1, ""),
				o.writes(kindLines, scribeTime+2, ""), o.writes(kindLines, scribeTime+9e6, "")}
		},
	} {
		vic := newScribe(1, "Vic")
		run := vic.chat(3)
		if strings.Contains(name, "leave") {
			vic.last = run[1]
			run[2] = vic.writes(kindLeave, run[2].time, "")
		}
		h := emptyHistory(ample, time.Now)
		h.add(vic.id, run, true, false)
		if n, err := h.add(vic.id, fork(vic, run), true, true); err != errFork || n != 0 {
			t.Errorf("%s: took %d, %v; want %v", name, n, err, errFork)
		}
		vic.last = run[2]
		if n, err := h.add(vic.id, []post{vic.writes(kindLines, scribeTime+60e6, "what would follow")}, true, true); n != 0 || err != nil {
			t.Errorf("%s: took %d afterwards, %v", name, n, err)
		}
		if got := h.about(vic.id); got.last != 3 || !got.fork {
			t.Errorf("%s: holds up to %d, forked: %v", name, got.last, got.fork)
		}
	}
}

// ---- time

func TestOwnClockNeverGoesBack(t *testing.T) {
	t.Parallel()
	seeded(t, 5, func(t *testing.T, r *rand.Rand) {
		clock := wallClock(scribeTime)
		h := emptyHistory(ample, clock.now)
		vic := newScribe(1, "Vic")
		latest := int64(0)
		for range 200 {
			clock += wallClock(r.Int64N(4e6) - 2e6)
			if r.IntN(4) == 0 {
				at := max(vic.last.time+1, int64(clock)+r.Int64N(2*int64(clockLimit.Microseconds())))
				h.add(vic.id, []post{vic.writes(kindLines, at, "x")}, true, false)
				if at <= int64(clock)+clockLimit.Microseconds() {
					latest = max(latest, at)
				}
			}
			h.say(kindLines, []byte("an answer"))
			own := h.ownPosts(0)
			got := own[len(own)-1].time
			if got <= latest || got > max(latest+1, int64(clock)) {
				t.Fatalf("said at %d, with the clock at %d, after what was said at %d", got, clock, latest)
			}
			latest = got
		}
	})
}

func TestClockFollowsOthersFiveMinutesAheadAndNoFurther(t *testing.T) {
	for _, c := range []struct {
		ahead  time.Duration
		follow bool
	}{
		{-time.Hour, false}, {2 * time.Minute, true}, {5 * time.Minute, true}, {5*time.Minute + time.Microsecond, false}, {1000 * time.Hour, false},
	} {
		clock := wallClock(scribeTime)
		h := emptyHistory(ample, clock.now)
		vic := newScribe(1, "Vic")
		p := vic.writes(kindJoin, scribeTime+c.ahead.Microseconds(), "")
		h.add(vic.id, []post{p}, true, false)
		h.say(kindLines, []byte("an answer"))
		got, want := h.ownPosts(0)[0].time, int64(scribeTime)
		if c.follow {
			want = p.time + 1
		}
		if got != want {
			t.Errorf("somebody %v ahead: answers %v after the wall clock, want %v", c.ahead, time.Duration(got-scribeTime)*1000, time.Duration(want-scribeTime)*1000)
		}
	}
}

// ---- bounds

func TestKeepHoldsAndTheOldestGoFirst(t *testing.T) {
	t.Parallel()
	seeded(t, 6, func(t *testing.T, r *rand.Rand) {
		const keep = 64 << 10
		h := emptyHistory(keep, aDayLater)
		var scribes []*scribe
		for i := range 6 {
			scribes = append(scribes, newScribe(i+1, fmt.Sprint("N", i)))
		}
		at := int64(scribeTime)
		var drain batch
		for step := range 600 {
			s := scribes[r.IntN(len(scribes))]
			at += r.Int64N(1e6) + 1
			if r.IntN(50) == 0 {
				h.note(s.id, post{kind: kindLost, time: at})
			}
			h.add(s.id, []post{s.scrawls(kindLines, max(at-r.Int64N(5e6), s.last.time+1), strings.Repeat("x", r.IntN(800)))}, true, false)
			for h.take(h.printer, &drain, 1<<20) {
			}
			if h.size > keep+2000 { // what the newest post takes may be over
				t.Fatalf("holds %d bytes, keep is %d", h.size, keep)
			}
			if step%50 > 0 {
				continue
			}
			for _, e := range h.chronology() {
				if e.time < h.horizon && h.horizon-e.time > 10e6 {
					t.Fatalf("holds an event of %d, though one of %d was dropped", e.time, h.horizon)
				}
			}
		}
		checkBooks(t, h)
		if h.horizon == 0 {
			t.Error("nothing was ever dropped")
		}
		for id, s := range h.vector() {
			events, from := h.posts(id, 1, maxRun)
			if len(events) == 0 || from != s.first {
				t.Errorf("says that it holds %+v of %v, but passes on %d posts from %d on", s, id, len(events), from)
			}
		}
	})
}

func TestExactlyTheOldestGo(t *testing.T) {
	const keep = 64 << 10
	h := emptyHistory(keep, time.Now)
	a, b := newScribe(1, "Ann"), newScribe(2, "Bob")
	var all []post
	for i := range 200 { // Bob's arrive first, though Ann's were said before them
		all = append(all, b.scrawls(kindLines, scribeTime+int64(2*i+1)*1e6, strings.Repeat("b", 100)))
	}
	h.add(b.id, all[:100:100], true, false)
	for i := range 50 {
		h.add(a.id, []post{a.scrawls(kindLines, scribeTime+int64(2*i)*1e6, strings.Repeat("a", 100))}, true, false)
	}
	var drain batch
	h.take(h.printer, &drain, ample)
	h.add(b.id, all[100:], true, false)
	events := h.chronology()
	if len(events) == 250 || len(events) == 0 {
		t.Fatalf("holds %d events", len(events))
	}
	for _, e := range events {
		if e.time <= h.horizon {
			t.Fatalf("holds an event of %v, though one of %v was dropped", time.UnixMicro(e.time), time.UnixMicro(h.horizon))
		}
	}
	if h.size > keep || h.size < keep-keep/spareKeep-1000 {
		t.Errorf("holds %d bytes, keep is %d", h.size, keep)
	}
}

func TestWhatACursorHasToPassIsNotDropped(t *testing.T) {
	const keep = 64 << 10
	h := emptyHistory(keep, time.Now)
	file := h.newCursor()
	vic := newScribe(1, "Vic")
	for i := range 300 {
		h.add(vic.id, []post{vic.scrawls(kindLines, scribeTime+int64(i), strings.Repeat("x", 1000))}, true, false)
	}
	for name, c := range map[string]*cursor{"the printer": h.printer, "the file": file} {
		var b batch
		n := uint64(0)
		for h.take(c, &b, 5000) {
			for _, e := range b {
				if n++; e.content().number != n {
					t.Fatalf("%s: post %d comes where %d should", name, e.content().number, n)
				}
			}
		}
		if n != 300 {
			t.Errorf("%s gets %d posts, want 300", name, n)
		}
	}
	h.add(vic.id, []post{vic.writes(kindLines, scribeTime+1000, "x")}, true, false)
	if h.size > keep {
		t.Errorf("holds %d bytes once all is read, keep is %d", h.size, keep)
	}
}

func TestOwnUnheardPostsAreNotDropped(t *testing.T) {
	const keep = 64 << 10
	clock := wallClock(scribeTime)
	h := emptyHistory(keep, clock.now)
	var drain batch
	say := func(n int) {
		for range n {
			clock += 1e6
			h.say(kindLines, bytes.Repeat([]byte{'x'}, 1000))
			h.take(h.printer, &drain, ample)
		}
	}
	say(200)
	if got := h.span(h.self); got.first != 1 || got.last != 200 {
		t.Errorf("holds %+v though nobody heard anything", got)
	}
	if h.hasRoomLocked(true) {
		t.Error("more may be said though nobody heard anything")
	}
	h.setDelivered(150)
	if got := h.span(h.self); got.first == 1 || got.first > 151 || h.size > keep {
		t.Errorf("holds %+v, %d bytes, though 150 posts were heard", got, h.size)
	}
	say(10)
	if got := h.span(h.self); got.first != 151 || got.last != 210 || len(h.ownPosts(0)) != 60 {
		t.Errorf("holds %+v, and %d of them, though only 150 posts were heard", got, len(h.ownPosts(0)))
	}
	checkBooks(t, h)
	h.setDelivered(205)
	h.setDelivered(180) // somebody connects who has less
	checkBooks(t, h)
	if h.setDelivered(190); !h.hasRoomLocked(true) {
		t.Error("no more may be said though all but 20 posts were heard")
	}
	if n := len(h.ownPosts(205)); n != 5 {
		t.Errorf("%d posts are above 205, want 5", n)
	}
	if n := len(h.ownPosts(1000)); n != 0 {
		t.Errorf("%d posts are above all", n)
	}
}

func TestClockThatIsAheadShutsNobodyOut(t *testing.T) {
	for _, ahead := range []time.Duration{365 * 24 * time.Hour, clockLimit - time.Second} {
		now := wallClock(scribeTime)
		h := emptyHistory(64<<10, now.now)
		var drain batch
		early := newScribe(1, "Early")
		for i := range 100 {
			h.add(early.id, []post{early.scrawls(kindLines, scribeTime+ahead.Microseconds()+int64(i), strings.Repeat("x", 2000))}, true, false)
			h.take(h.printer, &drain, ample)
		}
		for i, at := range []time.Duration{time.Microsecond, clockLimit + time.Microsecond} {
			late := newScribe(2+i, "Late")
			must2nd(t)(h.add(late.id, []post{late.writes(kindJoin, scribeTime+at.Microseconds(), "")}, true, false))
			if h.take(h.printer, &drain, ample); len(drain) != 1 {
				t.Errorf("after posts that are %v ahead, a newcomer at %v is not shown", ahead, at)
			}
		}
	}
}

// TestNoClockBuysALongerStay: what claims to come from the future goes with what
// its author said before, however much of it there is and whatever it claims.
func TestNoClockBuysALongerStay(t *testing.T) {
	for _, ahead := range []time.Duration{clockLimit + time.Second, 24 * time.Hour, 100 * 365 * 24 * time.Hour} {
		now := wallClock(scribeTime)
		h := emptyHistory(smallKeep, now.now)
		eve, vic := newScribe(1, "Eve"), newScribe(2, "Vic")
		var drain batch
		takes := func(s *scribe, at int64) {
			h.add(s.id, []post{s.writes(kindLines, at, strings.Repeat("x", 1000))}, true, false)
			for h.take(h.printer, &drain, ample) {
			}
		}
		takes(eve, int64(now))
		for range 200 {
			now += 1e6
			takes(eve, int64(now)+ahead.Microseconds())
		}
		for range 40 {
			now += 1e6
			takes(vic, int64(now))
		}
		if got := h.span(vic.id); got.first != 1 || got.last != 40 {
			t.Errorf("of 40 posts that were said at their time those from %d on are held, for posts that claim to come from %v ahead", got.first, ahead)
		}
		if h.span(eve.id).last == 0 {
			t.Errorf("nothing that claims to come from %v ahead is held, though there is room", ahead)
		}
		checkBooks(t, h)
	}
}

// fillsWithLines has h hold as many one-line posts of s as keep allows, and
// returns how many it took.
func (h *history) fillsWithLines(s *scribe, inFrame int) (n int) {
	s.began = time.Now().Add(-30 * 24 * time.Hour).UnixMicro()
	for ; h.horizon == 0; n += inFrame {
		_, run, _ := parseRun(appendRun(nil, s.id, s.scrawled(inFrame, oneLine)))
		h.add(s.id, run, false, false)
	}
	return n
}

// TestMakingRoomTakesNoCopyOfTheLog: where keep is full, a post costs what it
// costs elsewhere, however much is held.
func TestMakingRoomTakesNoCopyOfTheLog(t *testing.T) {
	h := emptyHistory(8<<20, time.Now)
	h.dropCursor(h.printer)
	s := newScribe(1, "Vic")
	h.fillsWithLines(s, 1000)
	run := s.scrawled(5000, oneLine)
	var before, after runtime.MemStats
	for i := range run {
		runtime.ReadMemStats(&before)
		h.add(s.id, run[i:i+1], false, false)
		h.note(s.id, post{kind: kindLost + byte(i%2)})
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 32<<10 {
			t.Fatalf("post %d takes %d bytes of memory for a moment", i, n)
		}
	}
	checkBooks(t, h)
}

// TestKeepCountsWhatMemoryTakes, in long runs and one by one.
func TestKeepCountsWhatMemoryTakes(t *testing.T) {
	const keep = 16 << 20
	for _, inFrame := range []int{1, 1000} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		h := emptyHistory(keep, time.Now)
		h.dropCursor(h.printer)
		n := h.fillsWithLines(newScribe(1, "Vic"), inFrame)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if took := int64(after.HeapAlloc - before.HeapAlloc); took > keep+keep/8 || took < keep*3/4 {
			t.Errorf("%d posts, %d in a frame, take %d bytes, and count as %d", n, inFrame, took, h.size)
		}
		runtime.KeepAlive(h)
	}
}

// TestKeepCountsWhatHoldsAFrame: of each frame of a megabyte one small post is held; the
// others are older and dropped, or were taken before, or don't go ahead of their turn.
func TestKeepCountsWhatHoldsAFrame(t *testing.T) {
	const keep, frames = 2 << 20, 20
	now := time.Now().UnixMicro()
	old := now - time.Hour.Microseconds()
	adds := func(s *scribe, at int64) (run []post) {
		for i := range int64(5) {
			run = append(run, s.scrawls(kindLines, at+i, strings.Repeat("x", 190_000)))
		}
		return run
	}
	inFrame := func(s *scribe, run ...post) []post {
		_, run, err := parseRun(runOf(s.id, run))
		must(t, err)
		return run
	}
	for what, come := range map[string]func(h *history){
		"dropped": func(h *history) {
			for i := range frames {
				s := newScribe(100+i, "Vic")
				must2nd(t)(h.add(s.id, inFrame(s, append(adds(s, old), s.scrawls(kindLines, now, "x"))...), false, false))
			}
		},
		"taken before": func(h *history) {
			s := newScribe(1, "Vic")
			run := adds(s, old)
			for i := range int64(frames) {
				run = append(run, s.scrawls(kindLines, now+i, "x"))
				must2nd(t)(h.add(s.id, inFrame(s, run...), false, false))
			}
		},
		"ahead of their turn": func(h *history) {
			s := newScribe(1, "Vic")
			s.last.number = 7
			for i := range int64(frames) {
				p := s.scrawls(kindLines, now+10*i, "x")
				if !h.showEarly(s.id, inFrame(s, append([]post{p}, adds(s, now+10*i+1)...)...)) {
					t.Error("nothing is shown ahead of its turn")
				}
			}
		},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		h := emptyHistory(keep, time.Now)
		h.dropCursor(h.printer)
		come(h)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if took := int64(after.HeapAlloc - before.HeapAlloc); took > keep+keep/4 {
			t.Errorf("%s: %d bytes are taken, and count as %d", what, took, h.size)
		}
		checkBooks(t, h)
	}
}

// TestFrameCountsUntilItsLastPostGoes, where its posts share its memory.
func TestFrameCountsUntilItsLastPostGoes(t *testing.T) {
	h, s := emptyHistory(shareFrom, time.Now), newScribe(1, "Vic")
	must2nd(t)(h.add(s.id, s.chat(5), false, false))
	checkBooks(t, h)
	for size := h.size; h.feeds[s.id].posts.count > 1; {
		if h.dropFirstLocked(h.feeds[s.id].posts); h.size != size {
			t.Fatalf("%d of 5 posts count as %d bytes, and all did as %d", h.feeds[s.id].posts.count, h.size, size)
		}
	}
	if h.dropFirstLocked(h.feeds[s.id].posts); h.size != 0 {
		t.Errorf("%d bytes are left when all are dropped", h.size)
	}
}

// TestSightingsOfOneAuthorAreBounded: somebody tells without end that an author
// was lost, and is back.
func TestSightingsOfOneAuthorAreBounded(t *testing.T) {
	now := wallClock(scribeTime)
	h := emptyHistory(ample, now.now)
	vic := newScribe(1, "Vic")
	h.add(vic.id, vic.chat(1), true, false)
	for i := range int64(1000) {
		now += 10_000
		h.noteOf(vic.id, post{kind: kindLost + byte(i%2), time: int64(now)}, int64(now))
	}
	if n := h.feeds[vic.id].notes.count; n > maxSeen {
		t.Errorf("%d sightings are taken in 10 seconds, want at most %d", n, maxSeen)
	}
	for range 100 { // an hour and a half
		now += 60e6
		h.noteOf(vic.id, post{kind: kindLost, time: int64(now)}, int64(now))
		h.noteOf(vic.id, post{kind: kindBack, time: int64(now) + 1}, int64(now)+1)
	}
	if n := h.feeds[vic.id].notes.count; n < 200 {
		t.Errorf("%d sightings are taken in an hour and a half, of 200 that are far apart", n)
	}
	if n := len(h.sightings(vic.id, 0)); n > maxSeen {
		t.Errorf("others are told of %d, want at most %d", n, maxSeen)
	}
}

// TestSightingIsTakenOnlyIfItIsNew: what others tell of an author counts if it is
// later than what is known, or if our clock went back since.
func TestSightingIsTakenOnlyIfItIsNew(t *testing.T) {
	t.Parallel()
	now := wallClock(scribeTime + 3600e6)
	h := emptyHistory(ample, now.now)
	vic := newScribe(1, "Vic")
	h.add(vic.id, vic.chat(1), true, false)
	sighting := func(kind byte, at int64) bool { return h.noteOf(vic.id, post{kind: kind, time: at}, at) }
	h.note(vic.id, post{kind: kindLost})
	if sighting(kindBack, int64(now)-1e6) {
		t.Error("it is back, by the word of one who saw it before it was lost")
	}
	if sighting(kindBack, 0) {
		t.Error("it is back, at no time")
	}
	for i := range int64(maxSeen) {
		if now += 1e6; !sighting(kindBack-byte(i%2), int64(now)) {
			t.Errorf("sighting %d is not taken", i)
		}
	}
	now -= 1800e6
	h.clockJumped()
	if now += 60e6; !sighting(kindBack, int64(now)) {
		t.Error("no sighting is taken after our clock went back")
	}
	h.horizon = int64(now) + 2e6
	if sighting(kindLost, int64(now)+1e6) {
		t.Error("a sighting is taken that is older than what was dropped")
	}
	lines := printedLines(h)
	if len(lines) < 2 || lines[0] != "* Vic@192.168.0.7? joined" || lines[1] != "* Vic@192.168.0.7? lost" {
		t.Errorf("prints %q, want Vic first, who was never reached", lines)
	}
}

// TestWhatIsShownAheadIsTakenInItsTurn, and is not shown again then.
func TestWhatIsShownAheadIsTakenInItsTurn(t *testing.T) {
	t.Parallel()
	now := wallClock(scribeTime)
	h := emptyHistory(ample, now.now)
	vic := newScribe(1, "Vic")
	run := vic.chat(5)
	prints := func(want ...string) {
		t.Helper()
		if got := printedLines(h); !slices.Equal(got, want) {
			t.Errorf("prints %q, want %q", got, want)
		}
	}
	h.showEarly(vic.id, run[2:3])
	h.reached(vic.id, netip.MustParseAddrPort("10.0.0.5:7700"), "Vic")
	h.showEarly(vic.id, run[2:5])
	prints("Vic@192.168.0.7?: Vic says 2", "Vic@10.0.0.5: Vic says 3", "Vic@10.0.0.5: Vic says 4")
	h.say(kindLines, []byte("an answer"))
	if h.about(h.self).time <= run[4].time {
		t.Error("an answer sorts before what it answers")
	}
	h.add(vic.id, slices.Clone(run), true, false)
	prints("Me (me): an answer", "* Vic@10.0.0.5 joined", "Vic@10.0.0.5: Vic says 1")

	large := newScribe(2, "Large")
	var ahead []post
	large.chat(1)
	for range 10 {
		ahead = append(ahead, large.writes(kindLines, large.last.time+1, strings.Repeat("x", maxLine)))
	}
	h.showEarly(large.id, ahead)
	if n := len(printedLines(h)); n != 1 || h.showEarly(large.id, ahead) {
		t.Errorf("%d posts of %d bytes are shown ahead of their turn, want one, once", n, maxLine)
	}
}

// TestWhatIsShownAheadIsTakenAsItsAuthorSignedIt, where nobody has the posts
// before it any more.
func TestWhatIsShownAheadIsTakenAsItsAuthorSignedIt(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, aDayLater)
	vic := newScribe(1, "Vic")
	run := vic.chat(5)
	h.showEarly(vic.id, run[2:3])
	h.showEarly(vic.id, append(run[4:5:5], vic.scrawls(kindLines, vic.last.time+1, "not signed")))
	h.takeEarly(vic.id)
	if got := h.span(vic.id); got.first != 5 || got.last != 5 || len(h.contents()) != 2 {
		t.Errorf("holds %+v, and %d events; want posts 3 and 5", got, len(h.contents()))
	}
	h.takeEarly(newScribe(2, "Unknown").id)
}

// TestOnlyWhoWasSeenMoves: no line says that an author has another address, unless
// one has said that it is here.
func TestOnlyWhoWasSeenMoves(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, aDayLater)
	vic := newScribe(1, "Vic")
	elsewhere := netip.MustParseAddrPort("192.168.0.44:7700")
	h.reached(vic.id, elsewhere, "Vic")
	h.reached(vic.id, vic.addr, "Vic")
	h.add(vic.id, vic.chat(2), true, false)
	h.reached(vic.id, elsewhere, "Vic")
	h.add(vic.id, []post{vic.writes(kindLeave, vic.last.time+1, "")}, true, false)
	h.reached(vic.id, vic.addr, "Vic")
	want := []string{"* Vic@192.168.0.7 joined", "Vic@192.168.0.7: Vic says 1", "* Vic@192.168.0.7 is now at 192.168.0.44", "* Vic@192.168.0.44 left"}
	if got := printedLines(h); !slices.Equal(got, want) {
		t.Errorf("prints %q, want %q", got, want)
	}
}

func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, aDayLater)
	vic, ann := newScribe(1, "Vic"), newScribe(2, "Ann")
	h.add(ann.id, ann.chat(1), true, false)
	for i := range 2 * maxNames {
		vic.name = fmt.Sprint("Vic", i)
		h.add(vic.id, []post{vic.scrawls(kindLines, scribeTime+int64(i), "x")}, true, false)
	}
	if len(h.names) > maxNames+2*len(h.feeds) || !h.bore("ann") || !h.bore(vic.name) {
		t.Errorf("%d names are remembered, want %d and those in use", len(h.names), maxNames)
	}
}

// TestWhatIsOlderThanWhatWasDropped is shown of authors that are known, and of those
// who say it themselves; what a third sends of others may have been shown before.
func TestWhatIsOlderThanWhatWasDropped(t *testing.T) {
	t.Parallel()
	h := emptyHistory(smallKeep, aDayLater)
	vic := newScribe(1, "Vic")
	var drain batch
	for h.horizon == 0 {
		h.add(vic.id, []post{vic.scrawls(kindLines, scribeTime+3600e6+int64(vic.last.number), strings.Repeat("x", 1000))}, true, false)
		h.take(h.printer, &drain, ample)
	}
	horizon := h.horizon
	prints := func(i int, proved bool) bool {
		s := newScribe(i, "Old")
		h.add(s.id, s.chat(1), proved, false)
		return h.take(h.printer, &drain, ample)
	}
	if prints(2, true) || !prints(3, false) {
		t.Error("what is older than what was dropped is shown by another's word, or not by its author's")
	}
	known := newScribe(4, "Known")
	run := known.chat(2)
	h.add(known.id, run[:1], false, false)
	h.take(h.printer, &drain, ample)
	if h.add(known.id, run[1:], true, false); !h.take(h.printer, &drain, ample) {
		t.Error("what an author said whom we know is not shown")
	}
	if h.horizon < horizon {
		t.Error("what was dropped last hides what was dropped before")
	}
}

// TestWhoIsHereIsNotForgotten until it may be, though nothing is held of it and
// many others are known.
func TestWhoIsHereIsNotForgotten(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, aDayLater)
	vic := newScribe(1, "Vic")
	met := func(n int) {
		for range maxAuthors + 1 {
			n++
			h.feedLocked(nodeID{1, byte(n >> 8), byte(n)})
		}
	}
	h.reached(vic.id, vic.addr, "Vic")
	met(0)
	if h.about(vic.id).name != "Vic" {
		t.Error("who is here is forgotten")
	}
	h.forget(vic.id)
	met(2 * maxAuthors)
	if h.feeds[vic.id] != nil {
		t.Error("who is gone is remembered for ever")
	}
}

func TestNothingIsSaidAfterLeaving(t *testing.T) {
	h := emptyHistory(ample, time.Now)
	h.say(kindLeave, nil)
	h.say(kindLines, []byte("wait, there is more"))
	if last := h.about(h.self).last; last != 1 {
		t.Errorf("post %d was said after leaving", last)
	}
}

func TestForgottenAuthorsLeaveTheVectorAndStayOut(t *testing.T) {
	t.Parallel()
	const keep = 64 << 10
	h := emptyHistory(keep, aDayLater)
	var drain batch
	var all []*scribe
	for i := range maxAuthors + 150 {
		s := newScribe(i, "Guest")
		binary.BigEndian.PutUint32(s.id[:], uint32(i)) // nobody checks its signature
		all = append(all, s)
		h.reached(s.id, s.addr, "Guest")
		h.add(s.id, []post{s.scrawls(kindLines, scribeTime+int64(i)*1e6, strings.Repeat("x", 2000))}, true, false)
		h.forget(s.id)
		h.take(h.printer, &drain, ample)
	}
	if n := len(h.vector()); n > keep/2000 || len(h.feeds) > maxAuthors+n+1 {
		t.Errorf("the vector names %d authors, %d are remembered", n, len(h.feeds))
	}
	checkBooks(t, h)
	first := all[0]
	if last := h.about(first.id).last; last != 0 {
		t.Errorf("the oldest author is known up to post %d", last)
	}
	for _, s := range []*scribe{first, all[maxAuthors+1]} { // forgotten, and remembered
		if _, err := h.add(s.id, []post{s.last}, true, false); err != nil || h.take(h.printer, &drain, ample) {
			t.Errorf("%d events that were dropped are shown again, %v", len(drain), err)
		}
	}
	if n := len(h.vector()); n > keep/2000 {
		t.Errorf("the vector names %d authors", n)
	}
}

// TestOldPostThatNobodyReadsExceedsKeepByLittle: it is the next to be dropped, but
// waits for a cursor.
func TestOldPostThatNobodyReadsExceedsKeepByLittle(t *testing.T) {
	t.Parallel()
	const keep = 64 << 10
	h := emptyHistory(keep, aDayLater)
	vic, old := newScribe(1, "Vic"), newScribe(2, "Old")
	run := vic.scrawled(1000, bytes.Repeat([]byte{'x'}, 1000))
	h.dropCursor(h.printer)
	h.add(vic.id, run[:100], false, false)
	h.newCursor()
	h.add(old.id, old.chat(1), false, false)
	n := 100
	for ; h.hasRoomLocked(false); n++ {
		h.add(vic.id, run[n:n+1], false, false)
	}
	if n == 100 || h.size > keep+keep/spareKeep+2000 {
		t.Errorf("holds %d bytes after %d posts, keep is %d", h.size, n-100, keep)
	}
}

// TestManySendersLeaveRoomForDirectMessagesOfOthers: where direct messages take
// all of their share, who has sent most of them loses the oldest.
func TestManySendersLeaveRoomForDirectMessagesOfOthers(t *testing.T) {
	t.Parallel()
	const keep = 1 << 20
	h := emptyHistory(keep, aDayLater)
	h.dropCursor(h.printer)
	sends := func(i, n int) *feed {
		s := newScribe(i, "X")
		for range n {
			h.note(s.id, post{kind: kindDirectFrom, addr: s.addr, text: bytes.Repeat([]byte{'x'}, 1000)})
		}
		return h.feeds[s.id]
	}
	for i := range 5 {
		if f := sends(i, 100); f.directs > keep/directShare {
			t.Errorf("%d bytes of direct messages from one node are held", f.directs)
		}
	}
	if f := sends(5, 2); f.notes.count != 2 || h.directs > 4*keep/directShare {
		t.Errorf("of 2 direct messages %d are held, and %d bytes in all", f.notes.count, h.directs)
	}
	checkBooks(t, h)
}

func TestRoomIsMadeByReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keep = 64 << 10
		h := emptyHistory(keep, time.Now)
		vic := newScribe(1, "Vic")
		ctx, cancel := context.WithCancel(t.Context())
		h.waitRoom(ctx, false) // nothing is there: at once
		for i := range 100 {
			h.add(vic.id, []post{vic.scrawls(kindLines, scribeTime+int64(i), strings.Repeat("x", 1000))}, true, false)
		}
		waits := func(end func()) bool {
			done := make(chan struct{})
			go func() { h.waitRoom(ctx, false); close(done) }()
			synctest.Wait()
			select {
			case <-done:
				return false
			default:
			}
			end()
			synctest.Wait()
			<-done
			return true
		}
		if !waits(func() { var b batch; h.take(h.printer, &b, 110_000) }) {
			t.Error("there is room though nobody reads")
		}
		slow := h.newCursor()
		for i := range 100 {
			h.add(vic.id, []post{vic.scrawls(kindLines, scribeTime+1000+int64(i), strings.Repeat("x", 1000))}, true, false)
		}
		var b batch
		h.take(h.printer, &b, ample)
		if !waits(func() { h.dropCursor(slow) }) {
			t.Error("there is room though one reader stands still")
		}
		h.newCursor()
		for i := range 100 {
			h.add(vic.id, []post{vic.scrawls(kindLines, scribeTime+2000+int64(i), strings.Repeat("x", 1000))}, true, false)
		}
		if !waits(cancel) {
			t.Error("there is room though nobody reads")
		}
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

// TestLinesAboveSaysIfSomeWereDropped: what -keep has dropped can't be counted.
func TestLinesAboveSaysIfSomeWereDropped(t *testing.T) {
	t.Parallel()
	h := emptyHistory(smallKeep, time.Now)
	var drain batch
	says := func() {
		h.say(kindLines, []byte("one\ntwo"+strings.Repeat("x", 1000)))
		h.take(h.printer, &drain, ample)
	}
	first := h.about(h.self).last
	says()
	if n, all := h.linesAbove(first); n != 2 || !all {
		t.Errorf("%d lines, all: %v; want 2, all of them", n, all)
	}
	for range 200 {
		says()
		h.setDelivered(h.about(h.self).last)
	}
	if n, all := h.linesAbove(first); n < 2 || n >= 402 || all {
		t.Errorf("%d lines, all: %v; want some of 402", n, all)
	}
	if n, all := h.linesAbove(h.about(h.self).last); n != 0 || !all {
		t.Errorf("%d lines above the last, all: %v; want none", n, all)
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
	printed := false
	var b batch
	for h.take(h.printer, &b, ample) {
		printed = printed || slices.ContainsFunc(b, func(e *event) bool { return e.kind == kindDirectFrom })
	}
	if !printed {
		t.Error("a direct message that was acknowledged is never printed")
	}
}

// ---- reading

// TestOwnPostsAreDueFirst, if they were said since the peer came, and then the
// feeds with the fewest posts.
func TestOwnPostsAreDueFirst(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, aDayLater)
	vic := newScribe(1, "Vic")
	for range 5 {
		h.say(kindLines, []byte("hello"))
	}
	h.add(vic.id, vic.chat(2), true, false)
	own, other := &sub{author: h.self, next: 3}, &sub{author: vic.id, next: 1}
	subs := map[nodeID]*sub{h.self: own, vic.id: other}
	due := func(base uint64) []*sub {
		return h.due(nil, subs, map[nodeID]bool{h.self: true, vic.id: true, {9}: true}, base)
	}
	if got := due(2); !slices.Equal(got, []*sub{own, other}) {
		t.Errorf("what was said since the peer came is not due first, but %v", got)
	}
	if got := due(3); !slices.Equal(got, []*sub{other, own}) {
		t.Errorf("what was said before the peer came is due first: %v", got)
	}
	own.next, other.next = 6, 3
	if got := due(3); len(got) != 0 {
		t.Errorf("%v is due though all was sent", got)
	}
	h.note(vic.id, post{kind: kindLost})
	if got := due(3); !slices.Equal(got, []*sub{other}) {
		t.Errorf("a sighting is not due, but %v", got)
	}
}

// TestAuthorsOwnWordSaysWhatANewcomerAwaits, and of others the highest.
func TestAuthorsOwnWordSaysWhatANewcomerAwaits(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, aDayLater)
	vic := newScribe(1, "Vic").id
	if h.await(vic, 5, false); h.awaited(vic) != 0 {
		t.Error("posts are awaited by one who is no newcomer")
	}
	h.hold()
	for i, c := range []struct {
		number uint64
		itself bool
		want   uint64
	}{{5, false, 5}, {9, false, 9}, {7, true, 7}, {6, false, 7}} {
		if h.await(vic, c.number, c.itself); h.awaited(vic) != c.want {
			t.Errorf("word %d: posts up to %d are awaited, want %d", i, h.awaited(vic), c.want)
		}
	}
	gone := newScribe(2, "Gone")
	h.await(gone.id, 9, false)
	h.add(gone.id, []post{gone.writes(kindJoin, scribeTime, ""), gone.writes(kindLeave, scribeTime+1, "")}, true, false)
	var missing []nodeID
	h.eachMissing(func(author nodeID, _ uint64) bool { missing = append(missing, author); return true })
	if !slices.Equal(missing, []nodeID{vic}) {
		t.Errorf("posts of %v are missing; want those of Vic, and none of who has left", missing)
	}
}

// TestNewcomersBlockHoldsNothingOfTheFile: an author of the file is here still.
func TestNewcomersBlockHoldsNothingOfTheFile(t *testing.T) {
	t.Parallel()
	vic := newScribe(1, "Vic")
	run := vic.chat(3)
	file := []byte(fileHeader)
	for _, p := range run[:2] {
		file = appendRecord(file, record{typ: recordPost, author: vic.id, reached: &vic.addr, body: p.sealed})
	}
	h := emptyHistory(ample, aDayLater)
	if _, err := h.load(bytes.NewReader(file), nodeID{}); err != nil {
		t.Fatal(err)
	}
	if h.bore("Vic") {
		t.Error("a name that stands in the file counts as one that was seen in this launch")
	}
	h.hold()
	h.await(vic.id, 3, true)
	h.add(vic.id, run[2:], true, false)
	h.release("Vic@192.168.0.7", func(nodeID) bool { return true })
	want := []string{"* history: 1 events from Vic@192.168.0.7", "Vic@192.168.0.7: Vic says 2", "* end of history"}
	if got := printedLines(h); !slices.Equal(got, want) {
		t.Errorf("prints %q, want %q", got, want)
	}
}

func TestCursorPassesEverythingOnceInOrderOfArrival(t *testing.T) {
	seeded(t, 10, func(t *testing.T, r *rand.Rand) {
		runs, ids := someAuthors(r, 3, 40)
		h := emptyHistory(ample, time.Now)
		h.add(ids[0], runs[0], true, false)
		c := h.newCursor()
		var b batch
		if h.take(c, &b, ample) {
			t.Fatalf("a new cursor gets %d events of before", len(b))
		}
		var got, want []string
		for i := 1; i < 3; i++ {
			for _, p := range runs[i] {
				h.add(ids[i], []post{p}, true, false)
				want = append(want, string(p.sealed))
				if r.IntN(3) > 0 {
					continue
				}
				select {
				case <-c.wake:
				default:
					t.Fatal("it was not woken")
				}
				for h.take(c, &b, 1+r.IntN(1000)) {
					for _, e := range b {
						got = append(got, string(e.sealed))
					}
				}
			}
		}
		for h.take(c, &b, 1) {
			if len(b) != 1 {
				t.Fatalf("%d events of one byte", len(b))
			}
			got = append(got, string(b[0].sealed))
		}
		if !slices.Equal(got, want) {
			t.Errorf("passed %d events, want %d in their order", len(got), len(want))
		}
	})
}

func (l *liner) appendAll(out []byte, b batch) []byte {
	for _, e := range b {
		out = l.appendEvent(out, e)
	}
	return out
}

// printedLines returns what the printer would print now, without timestamps.
func printedLines(h *history) []string {
	l := newLiner(h, 7700)
	var out []byte
	var b batch
	for h.take(h.printer, &b, 100) {
		out = l.appendAll(out, b)
	}
	return withoutStamps(string(out))
}

func TestNewcomersBlockIsFramedUnlessItHoldsNothingButJoins(t *testing.T) {
	ann, bob := newScribe(1, "Ann"), newScribe(2, "Bob")
	a := []post{ann.writes(kindJoin, scribeTime, ""), ann.writes(kindLines, scribeTime+3e6, "one\ntwo"), ann.writes(kindLines, scribeTime+9e6, "live")}
	b := []post{bob.writes(kindJoin, scribeTime+1e6, ""), bob.writes(kindLeave, scribeTime+8e6, "")}
	everybody := func(nodeID) bool { return true }
	for _, c := range []struct {
		name   string
		fill   func(*history)
		before map[nodeID]uint64
		here   func(nodeID) bool
		want   []string
	}{
		{"nothing", func(*history) {}, nil, everybody, []string{"* an answer"}},
		{"joins of those who are here", func(h *history) {
			h.add(bob.id, b[:1:1], true, false)
			h.add(ann.id, a[:1:1], true, false)
		}, map[nodeID]uint64{ann.id: 1, bob.id: 1}, everybody, []string{
			"* an answer", "* Ann@192.168.0.7 joined", "* Bob@192.168.0.7 joined"}},
		{"the join of one who is gone", func(h *history) {
			h.add(bob.id, b[:1:1], true, false)
			h.add(ann.id, a[:1:1], true, false)
		}, map[nodeID]uint64{ann.id: 1, bob.id: 1}, func(id nodeID) bool { return id == ann.id }, []string{
			"* an answer", "* history: 2 events from Ann@192.168.0.7", "* Ann@192.168.0.7 joined", "* Bob@192.168.0.7 joined", "* end of history"}},
		{"all there is", func(h *history) {
			h.add(bob.id, slices.Clone(b), true, false)
			h.add(ann.id, slices.Clone(a), true, false)
			h.note(ann.id, post{kind: kindLost, time: scribeTime + 5e6, addr: ann.addr})
			h.say(kindLines, []byte("early bird"))
			h.note(ann.id, post{kind: kindDirectFrom, name: []byte("Ann"), addr: ann.addr, text: []byte("hello, newcomer")})
		}, map[nodeID]uint64{ann.id: 2, bob.id: 2}, everybody, []string{
			"Ann@192.168.0.7: live", "Me (me): early bird", "Ann@192.168.0.7 -> me: hello, newcomer", "* an answer",
			"* history: 6 events from Ann@192.168.0.7",
			"* Ann@192.168.0.7 joined", "* Bob@192.168.0.7 joined", "Ann@192.168.0.7: one", "Ann@192.168.0.7: two",
			"* Ann@192.168.0.7 lost", "* Bob@192.168.0.7 left",
			"* end of history"}},
	} {
		h := emptyHistory(ample, time.Now)
		h.say(kindJoin, []byte("Me"))
		h.hold()
		for author, number := range c.before {
			h.await(author, number, false)
		}
		h.reached(ann.id, ann.addr, "Ann")
		h.reached(bob.id, bob.addr, "Bob")
		c.fill(h)
		got := printedLines(h) // what is said live
		h.show(answer("an answer"))
		got = append(got, printedLines(h)...)
		h.release("Ann@192.168.0.7", c.here)
		got = append(got, printedLines(h)...)
		if want := c.want; !slices.Equal(got, want) {
			t.Errorf("%s: prints\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		h.add(bob.id, slices.Clone(b), true, false)
		h.add(ann.id, slices.Clone(a), true, false)
		ann.last = a[2]
		h.add(ann.id, []post{ann.writes(kindLines, scribeTime+20e6, "afterwards")}, true, false)
		if got := printedLines(h); len(got) == 0 || got[len(got)-1] != "Ann@192.168.0.7: afterwards" {
			t.Errorf("%s: prints %q afterwards", c.name, got)
		}
	}
}

func TestAnswersThatNobodyReadsAreBounded(t *testing.T) {
	h := emptyHistory(ample, time.Now)
	n := 0
	for h.show(answer("x")) {
		if n++; n > 10_000 {
			t.Fatal("there is no bound")
		}
	}
	if got := printedLines(h); len(got) != n {
		t.Errorf("%d answers are printed of %d", len(got), n)
	}
	if !h.show(answer("y")) {
		t.Error("no more answers, though all were read")
	}
}

func TestLastLinesAreTheLastOfAllLines(t *testing.T) {
	seeded(t, 20, func(t *testing.T, r *rand.Rand) {
		h := emptyHistory(ample, time.Now)
		s := newScribe(1, "Vic")
		h.reached(s.id, netip.MustParseAddrPort("192.168.0.8:7700"), s.name) // and later elsewhere
		for i := range 1 + r.IntN(15) {
			kind, text := byte(kindLines), strings.Repeat("line\n\n", r.IntN(4))+fmt.Sprint("end ", i, strings.Repeat("\n", r.IntN(3)))
			switch r.IntN(4) {
			case 0:
				kind, text = kindRename, "Vic"
			case 1:
				kind = []byte{10, 77, 255}[r.IntN(3)] // of later versions: kept, not shown
			}
			h.add(s.id, []post{s.writes(kind, scribeTime+int64(i)*1e6, text)}, true, false)
		}
		h.reached(s.id, netip.MustParseAddrPort("192.168.0.9:7700"), s.name)
		l := newLiner(h, 7700)
		lines := func(n int) []string {
			events := lastLines(h.chronology(), n)
			out := string(l.appendAll(nil, events))
			if got := string(asHistory(events, "")[0].sealed); got != fmt.Sprintf("history: %d events", strings.Count(out, "\n")) {
				t.Fatalf("the last %d lines are said to be %q, but are %q", n, got, out)
			}
			return strings.SplitAfter(out, "\n")
		}
		all := lines(1 << 30)
		for n := range len(all) + 2 {
			got, want := lines(n), all[max(0, len(all)-1-n):]
			if !slices.Equal(got, want) {
				t.Fatalf("the last %d of %d lines are %q, want %q", n, len(all)-1, got, want)
			}
		}
	})
}

// TestUnknownKindsTakeNoLine: the frame of a history says how many lines it
// holds.
func TestUnknownKindsTakeNoLine(t *testing.T) {
	t.Parallel()
	for kind := range 256 {
		if isNote(byte(kind)) {
			continue
		}
		s := newScribe(1, "Vic")
		h := emptyHistory(ample, time.Now)
		h.add(s.id, []post{s.writes(byte(kind), scribeTime, "x")}, true, false)
		e := h.chronology()[0]
		out := newLiner(h, 7700).appendEvent(nil, e)
		if got, want := e.lines(), bytes.Count(out, []byte{'\n'}); got != want {
			t.Errorf("a post of kind %d counts as %d lines, is shown as %d", kind, got, want)
		} else if shown := kind >= kindJoin && kind <= kindLeave; want > 0 != shown {
			t.Errorf("a post of kind %d is shown as %q", kind, out)
		}
	}
}

// ---- lines

// inZone runs a test in a time zone. Nothing else may run beside it.
func inZone(t *testing.T, zone *time.Location) {
	before := time.Local
	time.Local = zone
	t.Cleanup(func() { time.Local = before })
}

func TestEveryKindOfEventHasItsLine(t *testing.T) {
	inZone(t, time.UTC)
	home, far := netip.MustParseAddrPort("192.168.0.7:7700"), netip.MustParseAddrPort("127.0.0.1:40123")
	v6, none := netip.MustParseAddrPort("[fe80::1]:7700"), netip.AddrPort{}
	me, tim := newScribe(200, "Alex"), newScribe(1, "Tim")
	p := func(s *scribe, kind byte, text string, at netip.AddrPort) post {
		return post{number: 1, time: scribeTime, kind: kind, addr: at, name: []byte(s.name), text: []byte(text)}
	}
	for _, c := range []struct {
		who     *scribe
		p       post
		reached netip.AddrPort
		want    string
	}{
		{tim, p(tim, kindJoin, "", home), home, "* Tim@192.168.0.7 joined\n"},
		{tim, p(tim, kindLines, "Hello, Alex", home), home, "Tim@192.168.0.7: Hello, Alex\n"},
		{tim, p(tim, kindLines, "\none\n\n \nthree\n", home), home, "Tim@192.168.0.7: one\nTim@192.168.0.7:  \nTim@192.168.0.7: three\n"},
		{tim, p(tim, kindLines, "\n\n", home), home, ""},
		{tim, p(tim, kindLines, "a\rb\x1b[2J\n\u202ec", home), home, "Tim@192.168.0.7: a␍b␛[2J\nTim@192.168.0.7: <U+202E>c\n"},
		{tim, p(tim, kindRename, "Timothy", home), home, "* Tim@192.168.0.7 is now Timothy\n"},
		{tim, p(tim, kindRename, "a\nb: c", home), home, "* Tim@192.168.0.7 is now a␊b__c\n"},
		{tim, p(tim, kindLeave, "", home), home, "* Tim@192.168.0.7 left\n"},
		{tim, p(tim, kindLost, "", home), home, "* Tim@192.168.0.7 lost\n"},
		{tim, p(tim, kindBack, "", home), home, "* Tim@192.168.0.7 is back\n"},
		{tim, p(tim, kindDirectFrom, "just for you", home), home, "Tim@192.168.0.7 -> me: just for you\n"},
		{tim, p(tim, kindDirectFrom, "two\nlines", home), home, "Tim@192.168.0.7 -> me: two␊lines\n"},
		{tim, p(me, kindDirectTo, "Tim\nthanks", home), home, "Alex (me) -> Tim@192.168.0.7: thanks\n"},
		{tim, p(tim, kindMoved, "192.168.0.44:7700", home), home, "* Tim@192.168.0.7 is now at 192.168.0.44\n"},
		{tim, p(tim, kindMoved, "[fe80::1%eth0]:40123", home), home, "* Tim@192.168.0.7 is now at [fe80::1%eth0]:40123\n"},
		{tim, p(tim, kindMoved, "[fe80::1%a\nb]:40123", home), home, "* Tim@192.168.0.7 is now at ?\n"},
		{tim, p(tim, kindMoved, "[fe80::1%a@b]:40123", home), home, "* Tim@192.168.0.7 is now at ?\n"},
		{tim, p(tim, kindJoin, "", home), far, "* Tim@127.0.0.1:40123 joined\n"}, // where we reached it
		{tim, p(tim, kindJoin, "", home), none, "* Tim@192.168.0.7? joined\n"},   // where it says it is
		{tim, p(tim, kindLeave, "", far), none, "* Tim@127.0.0.1:40123? left\n"},
		{tim, p(tim, kindLines, "one\ntwo", home), none, "Tim@192.168.0.7?: one\nTim@192.168.0.7?: two\n"},
		{tim, p(tim, kindRename, "Tom", home), none, "* Tim@192.168.0.7? is now Tom\n"},
		{tim, p(tim, kindLost, "", home), none, "* Tim@192.168.0.7? lost\n"},
		{tim, p(tim, kindJoin, "", none), none, "* Tim@? joined\n"},
		{tim, p(tim, kindRename, "at 192.168.0.44", home), home, "* Tim@192.168.0.7 is now at_192.168.0.44\n"},
		{tim, p(tim, kindJoin, "", v6), v6, "* Tim@fe80::1 joined\n"},
		{tim, p(&scribe{name: "evil)\n* Ann@1.2.3.4 left"}, kindJoin, "", home), home, "* evil_␊__Ann_1.2.3.4_left@192.168.0.7 joined\n"},
		{tim, p(&scribe{}, kindJoin, "", home), home, "* _@192.168.0.7 joined\n"},
		{tim, p(tim, 77, "later", home), home, ""},
		{me, p(me, kindJoin, "", home), home, "* Alex (me) joined\n"},
		{me, p(me, kindLines, "hi Tim", home), home, "Alex (me): hi Tim\n"},
		{me, p(me, kindRename, "Lex", home), home, "* Alex (me) is now Lex\n"},
		{me, p(me, kindLeave, "", home), home, "* Alex (me) left\n"},
	} {
		e := &event{feed: &feed{id: c.who.id}, kind: c.p.kind, time: c.p.time}
		if c.reached.IsValid() {
			e.reached = &c.reached
		}
		if isNote(e.kind) {
			e.sealed = appendContent(nil, c.p)
		} else {
			e.sealed = sealPost(c.who.key, c.who.id, c.p).sealed
		}
		l := &liner{self: me.id, port: 7700, reached: func(nodeID) *netip.AddrPort { return nil }}
		const stamp = "2026-11-22 15:04:05 "
		want := strings.TrimSuffix(stamp+strings.ReplaceAll(c.want, "\n", "\n"+stamp), stamp)
		if got := string(l.appendEvent([]byte("kept "), e)); got != "kept "+want {
			t.Errorf("kind %d is shown as\n%qwant\n%q", c.p.kind, got, "kept "+want)
		}
		if e.lines() != strings.Count(want, "\n") {
			t.Errorf("%q counts as %d lines", want, e.lines())
		}
	}
}

// TestAddressIsProvenWhateverItsZone: an author names its address without one.
func TestAddressIsProvenWhateverItsZone(t *testing.T) {
	tim, last := newScribe(1, "Tim"), netip.MustParseAddrPort("[fe80::1%eth0]:7700")
	tim.addr = netip.MustParseAddrPort("[fe80::1]:7700")
	e := &event{feed: &feed{id: tim.id}, kind: kindJoin, sealed: tim.writes(kindJoin, scribeTime, "").sealed}
	l := &liner{port: 7700, reached: func(nodeID) *netip.AddrPort { return &last }}
	if got := string(l.appendEvent(nil, e)); !strings.HasSuffix(got, " * Tim@fe80::1%eth0 joined\n") {
		t.Errorf("it is shown as %q", got)
	}
}

func TestTimestampsAreLocal(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	must(t, err)
	summer := time.Date(2026, 10, 25, 0, 59, 59, 999_999_000, time.UTC)
	for _, c := range []struct {
		zone *time.Location
		at   time.Time
		want string
	}{
		{time.UTC, time.UnixMicro(scribeTime), "2026-11-22 15:04:05 "},
		{time.FixedZone("", 5*3600+45*60), time.UnixMicro(scribeTime), "2026-11-22 20:49:05 "},
		{time.FixedZone("", -9*3600-1800), time.UnixMicro(scribeTime), "2026-11-22 05:34:05 "},
		{berlin, summer, "2026-10-25 02:59:59 "},
		{berlin, summer.Add(time.Microsecond), "2026-10-25 02:00:00 "},
		{time.UTC, time.UnixMicro(0), "1970-01-01 00:00:00 "},
		{time.UTC, time.UnixMicro(latestTime), "9999-12-31 23:59:59 "},
	} {
		t.Run(c.want, func(t *testing.T) {
			inZone(t, c.zone)
			l := new(liner)
			for range 2 { // made, and remembered
				if got := string(l.appendStamp(nil, c.at.UnixMicro())); got != c.want {
					t.Errorf("%v in %v is stamped %q, want %q", c.at, c.zone, got, c.want)
				}
			}
			if got := string(l.appendStamp(nil, c.at.UnixMicro()^1<<40)); got == c.want {
				t.Errorf("another second is stamped %q too", got)
			}
		})
	}
}

// ---- the history file

// savedBytes returns what save writes for all that h holds from the cursor on.
func savedBytes(t testing.TB, h *history, c *cursor) []byte {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var b bytes.Buffer
	must(t, h.save(ctx, c, nil, &b, nil))
	return b.Bytes()
}

// A filePage is a history file: what it holds, and where each record of it ends.
type filePage struct {
	bytes []byte
	kept  []string // as recordName says it
	start []int
	end   []int
}

// recordName names a record, so that what is loaded can be compared.
func recordName(author nodeID, body []byte) string { return string(author[:]) + string(body) }

// writePage has a history of three authors, of notes and direct messages,
// written to a file.
func writePage(t testing.TB, r *rand.Rand, posts int) *filePage {
	h := emptyHistory(ample, time.Now)
	c := h.newCursor()
	var all []*scribe
	for i := range 3 {
		all = append(all, newScribe(i+1, fmt.Sprint("N", i)))
	}
	h.reached(all[0].id, netip.MustParseAddrPort("[fe80::7%eth0]:40123"), "N0")
	at := int64(scribeTime)
	for range posts {
		s := all[r.IntN(3)]
		at += 1 + r.Int64N(2e6)
		switch text := strings.Repeat("text with p2c and \xf5p2c in it ", r.IntN(4)); r.IntN(8) {
		case 0:
			h.note(s.id, post{kind: kindDirectFrom, name: []byte(s.name), time: at, text: []byte("psst\n" + text)})
		case 1:
			h.note(s.id, post{kind: kindDirectTo, name: []byte("Me"), time: at, text: []byte(s.name + "\npsst")})
		default:
			h.add(s.id, []post{s.writes(kindLines, at, text)}, true, false)
		}
	}
	pg := &filePage{bytes: []byte(fileHeader)}
	for b := savedBytes(t, h, c); len(b) > 0; {
		x, size, err := parseRecord(b)
		must(t, err)
		pg.kept, pg.start = append(pg.kept, recordName(x.author, x.body)), append(pg.start, len(pg.bytes))
		pg.bytes = append(pg.bytes, b[:size]...)
		pg.end = append(pg.end, len(pg.bytes))
		b = b[size:]
	}
	if len(pg.kept) != posts {
		t.Fatalf("%d records were saved, want %d", len(pg.kept), posts)
	}
	return pg
}

// loadedRecords returns what h holds, in chronological order.
func loadedRecords(h *history) (all []string) {
	for _, e := range h.chronology() {
		all = append(all, recordName(e.feed.id, e.sealed))
	}
	return all
}

// wantLoaded fails unless the file loads to exactly these records.
func wantLoaded(t *testing.T, file []byte, want []string) (damaged int64) {
	t.Helper()
	h := emptyHistory(ample, time.Now)
	damaged, err := h.load(bytes.NewReader(file), nodeID{})
	if err != nil {
		t.Errorf("refused: %v", err)
		return damaged
	}
	got := loadedRecords(h)
	shown, lost := map[string]int{}, 0
	for _, s := range got {
		shown[s]++
	}
	for _, s := range want {
		if shown[s]--; shown[s] < 0 {
			lost++
		}
	}
	if more := len(got) + lost - len(want); lost > 0 || more > 0 {
		t.Errorf("%d of %d undamaged records are lost, %d others shown", lost, len(want), more)
	}
	if out := printedLines(h); len(out) > 0 {
		t.Errorf("%d lines are printed of what was loaded", len(out))
	}
	checkBooks(t, h)
	return damaged
}

func TestHistoryFileIsReadBackWhole(t *testing.T) {
	t.Parallel()
	seeded(t, 5, func(t *testing.T, r *rand.Rand) {
		pg := writePage(t, r, 60)
		if damaged := wantLoaded(t, pg.bytes, pg.kept); damaged != 0 {
			t.Errorf("%d bytes are said to be damaged", damaged)
		}
		h := emptyHistory(ample, time.Now)
		must2(h.load(bytes.NewReader(pg.bytes), nodeID{}))
		if !slices.Equal(loadedRecords(h), pg.kept) { // they were written in the order of their times
			t.Error("the order changed")
		}
	})
}

func must2[T any](_ T, err error) {
	if err != nil {
		panic(err)
	}
}

func TestHistoryFileCutAnywhereKeepsItsWholeRecords(t *testing.T) {
	t.Parallel()
	seeded(t, 1, func(t *testing.T, r *rand.Rand) {
		pg := writePage(t, r, 25)
		for i := range 400 {
			n := r.IntN(len(pg.bytes) + 1)
			if i < len(fileHeader)+recordHead {
				n = i // each of the first, where all is different
			}
			whole := 0
			for whole < len(pg.end) && pg.end[whole] <= n {
				whole++
			}
			if wantLoaded(t, pg.bytes[:n], pg.kept[:whole]); t.Failed() {
				t.Fatalf("cut after %d of %d bytes", n, len(pg.bytes))
			}
		}
	})
}

// altered returns file with a few bytes altered, and the offsets of these.
func altered(r *rand.Rand, file []byte) (bad []byte, at []int) {
	bad = bytes.Clone(file)
	for range 1 + r.IntN(3) {
		i := r.IntN(len(bad))
		if r.IntN(4) == 0 {
			i = r.IntN(len(fileHeader) + recordHead)
		}
		bad[i] ^= byte(1 + r.IntN(255))
		at = append(at, i)
	}
	return bad, at
}

func TestHistoryFileDamagedAnywhereLosesDamagedRecordsOnly(t *testing.T) {
	t.Parallel()
	seeded(t, 1, func(t *testing.T, r *rand.Rand) {
		pg := writePage(t, r, 25)
		for range 400 {
			bad, at := altered(r, pg.bytes)
			var want []string
			for i := range pg.kept {
				if !slices.ContainsFunc(at, func(k int) bool { return bad[k] != pg.bytes[k] && k >= pg.start[i] && k < pg.end[i] }) {
					want = append(want, pg.kept[i])
				}
			}
			damaged := wantLoaded(t, bad, want)
			if whole := bytes.Equal(bad, pg.bytes); (damaged == 0) != whole && len(want) < len(pg.kept) {
				t.Errorf("%d bytes are said to be damaged", damaged)
			}
			if t.Failed() {
				t.Fatalf("damaged at %d of %d bytes", at, len(pg.bytes))
			}
		}
	})
}

// TestDamageLeavesSightingsInTurn: a sighting that says what is so already
// is none, so that of these only the true ones among the undamaged are shown.
func TestDamageLeavesSightingsInTurn(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, time.Now)
	c := h.newCursor()
	vic := newScribe(1, "Vic")
	for i := range 10 {
		h.add(vic.id, []post{vic.writes(kindLines, scribeTime+int64(i)*10e6, "x")}, true, false)
		h.note(vic.id, post{kind: kindLost, time: scribeTime + int64(i)*10e6 + 1})
		h.note(vic.id, post{kind: kindBack, time: scribeTime + int64(i)*10e6 + 2})
	}
	file := append([]byte(fileHeader), savedBytes(t, h, c)...)
	whole := map[string]bool{}
	for _, s := range loadedRecords(h) {
		whole[s] = true
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		bad, at := altered(r, file)
		g := emptyHistory(ample, time.Now)
		if _, err := g.load(bytes.NewReader(bad), nodeID{}); err != nil {
			t.Fatalf("damaged at %d: %v", at, err)
		}
		last := byte(kindBack)
		for _, e := range g.chronology() {
			if !whole[recordName(e.feed.id, e.sealed)] {
				t.Errorf("damaged at %d: shows what nobody wrote", at)
			}
			if isNote(e.kind) {
				if e.kind == last {
					t.Errorf("damaged at %d: kind %d twice in a row", at, last)
				}
				last = e.kind
			}
		}
	}
}

// TestWhatLiesInADamagedRecordIsNoRecord: somebody may say a record, and wait
// for the file to be damaged just before it.
func TestWhatLiesInADamagedRecordIsNoRecord(t *testing.T) {
	vic, eve := newScribe(1, "Vic"), newScribe(2, "Eve")
	note := appendContent(nil, post{time: scribeTime, kind: kindDirectFrom, addr: vic.addr, name: []byte("Vic"), text: []byte("never said")})
	p := eve.writes(kindLines, scribeTime, "x"+string(appendRecord(nil, record{typ: recordNote, author: vic.id, body: note})))
	file := appendRecord([]byte(fileHeader), record{typ: recordPost, author: eve.id, body: p.sealed})
	wantLoaded(t, file, []string{recordName(eve.id, p.sealed)})
	for name, bad := range map[string][]byte{
		"damaged": append(bytes.Clone(file[:len(file)-1]), file[len(file)-1]^1),
		"torn":    file[:len(file)-10],
	} {
		t.Run(name, func(t *testing.T) { wantLoaded(t, bad, nil) })
	}
}

func TestTwoProcessesOnOneFileShowEachRecordOnce(t *testing.T) {
	t.Parallel()
	seeded(t, 10, func(t *testing.T, r *rand.Rand) {
		vic, ann := newScribe(1, "Vic"), newScribe(2, "Ann")
		var want []string
		one := []byte(fileHeader)
		var records [][]byte
		for _, s := range []*scribe{vic, ann} {
			for _, p := range s.chat(10) {
				want = append(want, recordName(s.id, p.sealed))
				records = append(records, appendRecord(nil, record{typ: recordPost, author: s.id, body: p.sealed}))
			}
		}
		for a, b := 0, 0; a < len(records) || b < len(records); { // two writers, each in its order
			if b == len(records) || a < len(records) && r.IntN(2) == 0 {
				one = append(one, records[a]...)
				a++
			} else {
				one = append(one, records[b]...)
				b++
			}
		}
		wantLoaded(t, one, want)
	})
}

// TestSecondCopyMakesUpForADamagedOne: where two processes wrote one file, a
// record is lost only when both copies of it are damaged.
func TestSecondCopyMakesUpForADamagedOne(t *testing.T) {
	vic := newScribe(1, "Vic")
	var want []string
	var copies []byte
	var ends []int
	for _, p := range vic.chat(5) {
		want = append(want, recordName(vic.id, p.sealed))
		copies = appendRecord(copies, record{typ: recordPost, author: vic.id, body: p.sealed})
		ends = append(ends, len(copies))
	}
	file := slices.Concat([]byte(fileHeader), copies, copies)
	for i, end := range ends {
		bad := bytes.Clone(file)
		bad[len(fileHeader)+end-1] ^= 1
		if wantLoaded(t, bad, want); t.Failed() {
			t.Fatalf("record %d of the first process was damaged", i+1)
		}
	}
}

// TestGapOfOneProcessIsFilledByTheOther: of two that write one file, one was
// cut off for a while and took what came then over the gap.
func TestGapOfOneProcessIsFilledByTheOther(t *testing.T) {
	vic := newScribe(1, "Vic")
	var want []string
	var records [][]byte
	for _, p := range vic.chat(5) {
		want = append(want, recordName(vic.id, p.sealed))
		records = append(records, appendRecord(nil, record{typ: recordPost, author: vic.id, body: p.sealed}))
	}
	file := slices.Concat(append([][]byte{[]byte(fileHeader)}, records[0], records[1], records[4], records[2], records[3], records[4])...)
	wantLoaded(t, file, want)
}

func TestHistoryFileLargerThanKeepLoadsItsEnd(t *testing.T) {
	t.Parallel()
	const keep = 64 << 10
	var file []byte
	var all []post
	vic, ann := newScribe(1, "Vic"), newScribe(2, "Ann")
	for i := range 400 {
		for _, s := range []*scribe{vic, ann} {
			if s == ann && i%100 > 0 {
				continue // she says little, and is forgotten in between
			}
			p := s.writes(kindLines, scribeTime+int64(i)*1e6, strings.Repeat("x", 1000))
			all = append(all, p)
			file = appendRecord(file, record{typ: recordPost, author: s.id, body: p.sealed})
		}
	}
	h := emptyHistory(keep, time.Now)
	if damaged, err := h.load(io.MultiReader(strings.NewReader(fileHeader), bytes.NewReader(file)), nodeID{}); damaged > 0 || err != nil {
		t.Fatalf("%d bytes damaged, %v", damaged, err)
	}
	events := h.chronology()
	if len(events) < 40 || h.size > keep {
		t.Fatalf("holds %d events, %d bytes, keep is %d", len(events), h.size, keep)
	}
	for i, e := range events {
		if want := all[len(all)-len(events)+i]; !bytes.Equal(e.sealed, want.sealed) {
			t.Fatalf("event %d of %d is not the last but %d of the file", i, len(events), len(events)-i)
		}
	}
	checkBooks(t, h)
}

// TestHistoryFileIsReadInPiecesThatLoseNothing: a file is taken piece by piece, and
// its author signs every 50th post alone, so a piece ends among unsigned ones.
// TestMarkerIsFoundAcrossPieces: behind damage it stands where one piece of the file that
// is read ends and the next begins.
func TestMarkerIsFoundAcrossPieces(t *testing.T) {
	t.Parallel()
	good := appendRecord(nil, record{typ: recordPost, body: []byte("good")})
	for cut := range len(recordMarker) + 1 {
		junk := recordHead + maxFrame - len(fileHeader) - cut
		file, found := slices.Concat([]byte(fileHeader), make([]byte, junk), good), 0
		damaged, err := readRecords(bytes.NewReader(file), func(x record) error {
			if string(x.body) == "good" {
				found++
			}
			return nil
		})
		if damaged != int64(junk) || err != nil || found != 1 {
			t.Errorf("a marker is cut at %d: %d records are found, and %d bytes damaged, want 1 and %d (%v)", cut, found, damaged, junk, err)
		}
	}
}

func TestHistoryFileIsReadInPiecesThatLoseNothing(t *testing.T) {
	t.Parallel()
	w := newScribe(1, "Alex")
	w.began = time.Now().Add(-24 * time.Hour).UnixMicro()
	file := []byte(fileHeader)
	text := strings.Repeat("x", 2000)
	for len(file) < 2*loadAtOnce {
		run := append(w.scrawled(49, []byte(text)), w.writes(kindLines, w.last.time+1, text))
		for _, p := range run {
			file = appendRecord(file, record{typ: recordPost, author: w.id, body: p.sealed})
		}
	}
	h := emptyHistory(4*loadAtOnce, time.Now)
	if damaged, err := h.load(bytes.NewReader(file), nodeID{}); damaged > 0 || err != nil {
		t.Fatal(damaged, err)
	}
	if got := h.span(w.id); got.first != 1 || got.last != w.last.number {
		t.Errorf("of %d posts those from %d to %d are held", w.last.number, got.first, got.last)
	}
}

// TestHistoryFileKeepsWhereAuthorsWere, and which of that nobody proved.
func TestHistoryFileKeepsWhereAuthorsWere(t *testing.T) {
	clock := wallClock(scribeTime)
	h := emptyHistory(ample, clock.now)
	c := h.newCursor()
	met, heard := newScribe(1, "Met"), newScribe(2, "Heard")
	home, away := netip.MustParseAddrPort("10.9.0.1:40123"), netip.MustParseAddrPort("[fe80::1%eth0]:7700")
	h.say(kindJoin, []byte("Me"))
	h.add(heard.id, heard.chat(2), true, false)
	h.reached(met.id, home, "Met")
	h.add(met.id, met.chat(3), false, false)
	clock += 10e6
	h.reached(met.id, away, "Met")
	h.note(met.id, post{kind: kindLost})
	h.note(met.id, post{kind: kindDirectFrom, time: int64(clock), text: []byte("psst")})
	h.noteOf(heard.id, post{kind: kindLost, time: int64(clock), name: []byte("Heard"), addr: home}, int64(clock))
	lines := func(h *history, self nodeID) []string {
		l := newLiner(h, 7700)
		l.self = self
		return withoutStamps(string(l.appendAll(nil, h.chronology())))
	}
	want := lines(h, nodeID{}) // in the next launch we are somebody else
	for i, line := range want {
		want[i] = strings.Replace(line, "Me@192.168.0.7? joined", "Me@192.168.0.7 joined", 1)
	}
	g := newHistory(newScribe(201, "").key, ample, time.Now, nil)
	file := append([]byte(fileHeader), savedBytes(t, h, c)...)
	must2(g.load(bytes.NewReader(file), nodeID{}))
	if got := lines(g, g.self); !slices.Equal(got, want) {
		t.Errorf("it reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for re, n := range map[string]int{`Met@10.9.0.1:40123: `: 2, `Heard@192.168.0.7\?: `: 1, `Heard@10.9.0.1:40123\? lost`: 1,
		`Met@10.9.0.1:40123 is now at fe80::1%eth0$`: 1, `Met@fe80::1%eth0 lost`: 1, `Met@fe80::1%eth0 -> me: psst`: 1, `Me@192.168.0.7 joined`: 1} {
		if count(want, re) != n {
			t.Errorf("%d lines match %q, want %d:\n%s", count(want, re), re, n, strings.Join(want, "\n"))
		}
	}
	forged := appendRecord([]byte(fileHeader), record{typ: recordPost, author: met.id, reached: &away, body: met.last.sealed})
	forged = bytes.Replace(forged, []byte("%eth0"), []byte("%e\n 0"), 1)
	binary.BigEndian.PutUint32(forged[len(fileHeader)+8:], crc32.Checksum(forged[len(fileHeader)+recordHead:], crc32.MakeTable(crc32.Castagnoli)))
	wantLoaded(t, forged, nil)
}

func TestAppendingBehindATornTailWorks(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 3))
	pg := writePage(t, r, 12)
	vic := newScribe(77, "Vic")
	var more []byte
	var behind []string
	for _, p := range vic.chat(3) {
		more = appendRecord(more, record{typ: recordPost, author: vic.id, body: p.sealed})
		behind = append(behind, recordName(vic.id, p.sealed))
	}
	for n := len(fileHeader); n <= len(pg.bytes); n += 1 + r.IntN(20) {
		whole := 0
		for whole < len(pg.end) && pg.end[whole] <= n {
			whole++
		}
		if wantLoaded(t, slices.Concat(pg.bytes[:n], more), slices.Concat(pg.kept[:whole], behind)); t.Failed() {
			t.Fatalf("torn after %d of %d bytes", n, len(pg.bytes))
		}
	}
}

// TestHistoryFileGoesOnWhereItEnds uses a real file, opened as the program
// does, whose last launch died in the middle of a write.
func TestHistoryFileGoesOnWhereItEnds(t *testing.T) {
	vic := newScribe(1, "Vic")
	run := vic.chat(40)
	name, said := file(t, "history", fileHeader[:5]), newTranscript()
	for launch, cut := range []int64{0, 5, 1, 70, 20} {
		a := &app{cfg: &config{history: name}, v: newVoice(said), h: emptyHistory(ample, time.Now)}
		ctx, end := context.WithCancel(t.Context())
		must(t, a.openHistory(ctx, nodeID{7}))
		for _, e := range a.h.chronology() { // what was there is told to everybody
			if n := e.content().number; !bytes.Equal(e.sealed, run[n-1].sealed) {
				t.Errorf("launch %d: post %d is not as it was written", launch, n)
			}
		}
		last := a.h.about(vic.id).last
		if want := uint64(launch * 7); last != want {
			t.Errorf("launch %d: loads up to post %d, want %d", launch, last, want)
		}
		_, err := a.h.add(vic.id, slices.Clone(run[last:launch*7+8]), true, false)
		must(t, err)
		end()
		a.saving.Wait()
		a.v.close()
		info, err := os.Stat(name)
		must(t, err)
		must(t, os.Truncate(name, info.Size()-max(1, cut))) // the 8th is torn
	}
	if b, err := os.ReadFile(name); err != nil || !bytes.HasPrefix(b, []byte(fileHeader)) {
		t.Errorf("the file begins with %.50q, %v", b, err)
	}
	if n := strings.Count(said.String(), "are damaged and were left out"); n != 4 {
		t.Errorf("of 4 launches that found a torn post, %d tell of it", n)
	}
}

// TestFileThatTwoBeganIsWhole: two processes that begin a history at once both write
// its first line.
func TestFileThatTwoBeganIsWhole(t *testing.T) {
	t.Parallel()
	pg := writePage(t, rand.New(rand.NewPCG(5, 5)), 3)
	h := emptyHistory(ample, time.Now)
	damaged, err := h.load(io.MultiReader(strings.NewReader(fileHeader), bytes.NewReader(pg.bytes)), nodeID{})
	if damaged != 0 || err != nil {
		t.Errorf("%d bytes are damaged, %v", damaged, err)
	}
}

func TestForeignFileIsRefused(t *testing.T) {
	pg := writePage(t, rand.New(rand.NewPCG(4, 4)), 3)
	for _, c := range []struct {
		name, content string
		ours          bool
	}{
		{"an empty file", "", true},
		{"the beginning of a header", fileHeader[:5], true},
		{"a header alone", fileHeader, true},
		{"a header and garbage", fileHeader + "garbage", true},
		{"records behind a damaged header", "q" + string(pg.bytes[1:]), true},
		{"records behind no header", string(pg.bytes[len(fileHeader):]), true},
		{"a text", "Dear diary,\n", false},
		{"a text that begins alike", "p2pchat is a chat\n", false},
		{"one byte", "x", false},
		{"zeros", strings.Repeat("\x00", 3<<20), false},
		{"markers without records", strings.Repeat("\xf5p2c", 1000), false},
		{"a history of another version", "p2pchat history 2\n", false},
		{"a history of another room", fileHeader + string(appendRecord(nil, record{typ: recordRoom, author: nodeNumber(1)})) + string(pg.bytes[len(fileHeader):]), false},
	} {
		h := emptyHistory(ample, time.Now)
		if _, err := h.load(strings.NewReader(c.content), nodeID{}); (err == nil) != c.ours {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// An endless is a file of zeros without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestEndlessForeignFileIsRefused(t *testing.T) {
	h := emptyHistory(ample, time.Now)
	if _, err := h.load(endless{}, nodeID{}); err == nil {
		t.Error("zeros are taken for a history")
	}
}

func TestRecordsOfLaterVersionsAreSkipped(t *testing.T) {
	pg := writePage(t, rand.New(rand.NewPCG(5, 5)), 4)
	file := bytes.Clone(pg.bytes[:pg.end[1]])
	file = appendRecord(file, record{typ: 6, body: []byte("later")})
	file = appendRecord(file, record{typ: 255, body: nil})
	file = append(file, pg.bytes[pg.end[1]:]...)
	if damaged := wantLoaded(t, file, pg.kept); damaged != 0 {
		t.Errorf("%d bytes are said to be damaged", damaged)
	}
}

func TestFileThatCannotBeReadIsAnError(t *testing.T) {
	pg := writePage(t, rand.New(rand.NewPCG(6, 6)), 4)
	broken := errors.New("the disk is broken")
	for _, n := range []int{0, 5, len(fileHeader), len(fileHeader) + 3, pg.end[0], pg.end[0] + 20, len(pg.bytes)} {
		h := emptyHistory(ample, time.Now)
		r := io.MultiReader(bytes.NewReader(pg.bytes[:n]), iotest.ErrReader(broken))
		if _, err := h.load(r, nodeID{}); !errors.Is(err, broken) {
			t.Errorf("broken after %d of %d bytes: %v", n, len(pg.bytes), err)
		}
	}
}

// A fullDisk takes so many bytes, and of a Write all or nothing.
type fullDisk struct {
	bytes.Buffer
	mu   sync.Mutex // guards left
	left int
}

var errFull = errors.New("no space left on device")

func (d *fullDisk) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(b) > d.left {
		return 0, errFull
	}
	d.left -= len(b)
	return d.Buffer.Write(b)
}

// TestFullDiskHoldsUpNothing: what comes while the disk is full is taken all the
// same, and saved when there is room again, as far as keep still holds it.
func TestFullDiskHoldsUpNothing(t *testing.T) {
	for _, more := range []int{10, 300} { // events while it is full; of 300 keep holds a few
		for _, recovers := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				h := emptyHistory(smallKeep, aDayLater)
				vic := newScribe(1, "Vic")
				var want []string
				var drain batch
				takes := func(n int, text string) {
					for range n {
						h.waitRoom(t.Context(), false)
						p := vic.writes(kindLines, vic.last.time+1e6, text)
						h.add(vic.id, []post{p}, true, false)
						h.take(h.printer, &drain, ample)
						want = append(want, recordName(vic.id, p.sealed))
					}
				}
				vic.last.time = scribeTime
				d := &fullDisk{left: 2000} // of which five small ones take more than half
				ctx, end := context.WithCancel(t.Context())
				done := make(chan error, 1)
				var told []error
				c := h.newCursor()
				go func() {
					done <- h.save(ctx, c, []byte(fileHeader), d, func(err error) { told = append(told, err) })
				}()
				takes(5, "there is room")
				synctest.Wait()
				takes(more, strings.Repeat("x", 1000))
				time.Sleep(10 * time.Second)
				if h.size > smallKeep {
					t.Errorf("holds %d bytes, keep is %d", h.size, smallKeep)
				}
				checkBooks(t, h) // the cursor of the file is loose, and some of what waits for it was dropped
				if recovers {
					d.mu.Lock()
					d.left = ample
					d.mu.Unlock()
				}
				time.Sleep(10 * time.Second)
				takes(3, "again")
				end()
				if err := <-done; (err == nil) != recovers {
					t.Errorf("%d events, room again: %v; saving ends with %v", more, recovers, err)
				}
				if recovers && (len(told) != 2 || told[0] != errFull || told[1] != nil) || !recovers && len(told) != 1 {
					t.Errorf("is told %v", told)
				}
				kept := want[:5]
				if recovers {
					kept = want
				}
				if got := len(savedRecords(t, d.Bytes(), want)); got > len(kept) || recovers && got < min(more, 20)+8 || !recovers && got != 5 {
					t.Errorf("%d events, room again: %v; %d are saved of %d", more, recovers, got, len(want))
				}
			})
		}
	}
}

// savedRecords returns the records of a file, of which none is damaged, and all
// are in their order among those of all.
func savedRecords(t *testing.T, file []byte, all []string) (saved []string) {
	t.Helper()
	for b := file[len(fileHeader):]; len(b) > 0; {
		x, n, err := parseRecord(b)
		if err != nil {
			t.Fatalf("the file is damaged behind %d records: %v", len(saved), err)
		}
		i := slices.Index(all, recordName(x.author, x.body))
		if i < 0 {
			t.Fatalf("record %d is saved twice, or out of turn", len(saved))
		}
		saved, all, b = append(saved, all[i]), all[i+1:], b[n:]
	}
	return saved
}

func TestWhatWasSaidBeforeTheEndIsSaved(t *testing.T) {
	h := emptyHistory(ample, time.Now)
	c := h.newCursor()
	ctx, end := context.WithCancel(t.Context())
	var b bytes.Buffer
	done := make(chan error)
	go func() { done <- h.save(ctx, c, nil, &b, nil) }()
	var want []string
	for i := range 100 {
		h.say(kindLines, fmt.Append(nil, "line ", i))
	}
	end()
	must(t, <-done)
	for _, e := range h.ownPosts(0) {
		want = append(want, recordName(h.self, e.sealed))
	}
	g := newHistory(newScribe(201, "").key, ample, time.Now, nil)
	_, err := g.load(io.MultiReader(strings.NewReader(fileHeader), &b), nodeID{})
	must(t, err)
	if got := loadedRecords(g); !slices.Equal(got, want) {
		t.Errorf("%d of %d posts were saved", len(got), len(want))
	}
}

// TestForgedRecordIsNotLoaded: whoever can write the file may leave posts
// out, but not put words into a mouth; what is signed before those stays.
func TestForgedRecordIsNotLoaded(t *testing.T) {
	vic, eve := newScribe(1, "Vic"), newScribe(2, "Eve")
	run := vic.chat(3)
	var want []string
	file := []byte(fileHeader)
	for _, p := range eve.chat(2) {
		file = appendRecord(file, record{typ: recordPost, author: eve.id, body: p.sealed})
		want = append(want, recordName(eve.id, p.sealed))
	}
	for i, p := range run {
		if i == 2 {
			p.sealed = sealPost(eve.key, vic.id, post{number: 3, time: p.time, prev: p.prev, kind: kindLines, text: []byte("forged")}).sealed
		} else {
			want = append(want, recordName(vic.id, p.sealed))
		}
		file = appendRecord(file, record{typ: recordPost, author: vic.id, body: p.sealed})
	}
	wantLoaded(t, file, want)
}

func FuzzLoadHistory(f *testing.F) {
	pg := writePage(f, rand.New(rand.NewPCG(7, 7)), 6)
	f.Add(pg.bytes)
	f.Add(pg.bytes[:len(pg.bytes)-3])
	f.Add(slices.Concat(pg.bytes[:pg.end[1]], pg.bytes[pg.start[0]:]))
	f.Add([]byte(fileHeader[:3]))
	f.Add([]byte("\xf5p2c\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, file []byte) {
		h := emptyHistory(64<<10, time.Now)
		damaged, err := h.load(bytes.NewReader(file), nodeID{})
		if damaged < 0 || damaged > int64(len(file)) {
			t.Errorf("%d of %d bytes are damaged", damaged, len(file))
		}
		if err != nil {
			return
		}
		checkBooks(t, h)
		l := newLiner(h, 7700)
		for _, e := range h.chronology() {
			out := l.appendEvent(nil, e)
			for line := range strings.Lines(string(out)) {
				if bad := unclean(strings.TrimSuffix(line, "\n")); bad != "" {
					t.Errorf("the line %q holds %s", line, bad)
				}
			}
		}
		b := append([]byte(fileHeader), savedBytes(t, h, &cursor{next: h.end.later, wake: make(chan struct{}, 1)})...)
		g := emptyHistory(64<<10, time.Now)
		if damaged, err := g.load(bytes.NewReader(b), nodeID{}); err != nil || damaged > 0 {
			t.Errorf("written again, it is loaded with %d bytes damaged, %v", damaged, err)
		}
	})
}
