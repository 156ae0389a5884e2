package main

// This file is the memory of a node: what everybody said, and who came and
// went. It also decides which peer to ask for what is missing in it.
//
// An event is a post, which its author signed and every node has alike, or a
// note, which is this node's own: it saw, or heard from another, that a node was lost
// or came back; a node moved; a direct message passed. Events stand in one log, in
// order of arrival. The posts of one author also form a feed. Its numbers are
// consecutive, so the first and the last say all that is held of it; a vector of
// these says all that a node holds. Posts of an author are taken in order and once,
// so it doesn't matter which peers send them, or how often.
//
// The log has readers: the printer and the history file. Each has a cursor in it,
// and is woken when the log grows. Chronological order is made when somebody
// asks for it. Time is a hybrid logical clock: the wall clock, but later than
// all that was said before.
//
// Memory is bounded by keep. The oldest events go first, but none that a
// cursor has still to pass, and none of our own that a connected node has
// still to take; those who add more must wait for room, so a flood waits at
// the place where it comes in. An event is as old as its author says. One that
// claims to come from the future counts as said when its author said the event
// before, so that no clock buys a longer stay; a clock within clockLimit is
// believed. The events of one author come in the order of their age, and so the
// oldest of all is the first of some author's.
//
// A lack is an author that some peer may have more of than we. What to do about
// it is decided from values alone, without a lock or a clock. The end of the file
// gathers these under the lock of the node, and notes for the connections what to
// ask for; peer.go sends it. A newcomer's wait for what was said before it came is
// there too.
//
// How an event looks as a line is laid out in protocol.go.

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clockLimit  = 5 * time.Minute // a clock further ahead than this drags nobody along
	eventCost   = 128             // bytes of memory that an event takes beside its post: 96 in a long run, more alone in a frame
	shareFrom   = 256 * maxRun    // bytes of keep from which posts of one frame share its memory
	directShare = 16              // part of keep that direct messages from one node may take, and of all nodes four times as much
	authorCost  = 512             // bytes of memory that an author takes if anything is held of it
	dropAtOnce  = 1000            // events that are dropped at once, besides two for each that comes: some hundred microseconds
	spareKeep   = 16              // keep may be exceeded by 1/16 of it while a cursor has still to pass what is to go
	maxQueue    = 64              // answers waiting for the printer
	followSize  = 64 << 10        // bytes of posts that are printed, or saved, at once
	maxNames    = 4096            // names remembered, beside two for each author; if there are more, those in use stay
	maxAuthors  = 1024            // authors that are remembered though nothing is held of them
	maxSeen     = 16              // sightings of one author that are taken from others in a minute, and that we tell on
	saveAgain   = time.Second     // until a write of the history that failed is tried again
	storePiece  = 512             // events
	loadAtOnce  = 4 << 20         // bytes of a history file

	maxEarlyPosts = largeFrame // bytes of posts of one author that are shown ahead of their turn, at least a line: of 220 nodes of one host less than 16 MiB
)

var (
	errGap  = errors.New("posts between are missing")
	errFork = errors.New("its author contradicts what it signed before")
)

// An event is a post, a note, or a line of answer. It is immutable but for the last fields.
type event struct {
	feed    *feed  // nil: it is a line of answer
	sealed  []byte // the sealed post; of a note, its content; of answer, the line
	time    int64  // µs since 1970
	seq     uint64 // place in the order of arrival
	kind    byte
	reached *netip.AddrPort // where we had last reached the author; nil if we never had
	shared  int64           // what others that share its memory cost, which goes with it; less than 0: with another
	doubted bool            // it claims to come from the future
	printed bool            // the printer has taken it; guarded by history.mu

	signature      atomic.Int32 // its own: 1 good, -1 bad, 0 not checked yet
	earlier, later *event       // in the log, nil if it was dropped; guarded by history.mu
}

// compare orders events chronologically. The times of an author's posts never tie.
func (e *event) compare(o *event) int {
	return cmp.Or(cmp.Compare(e.time, o.time), bytes.Compare(e.feed.id[:], o.feed.id[:]), cmp.Compare(e.seq, o.seq))
}

func (e *event) cost() int64 { return int64(len(e.sealed)) + eventCost + e.shared }

// content takes e apart. It can't fail, since e was parsed when it was taken.
func (e *event) content() post {
	b := e.sealed
	if !isNote(e.kind) {
		b = b[:len(b)-signatureSize]
	}
	return noError(parseContent(b))
}

// isSigned says whether the author of e, a post, signed it. It checks that once.
func (e *event) isSigned() bool {
	if e.signature.Load() == 0 {
		state := int32(-1)
		if p := noError(parsePost(e.feed.id, e.sealed)); p.verify(e.feed.id) {
			state = 1
		}
		e.signature.Store(state)
	}
	return e.signature.Load() > 0
}

// number returns the number of e, a post.
func (e *event) number() uint64 { return binary.BigEndian.Uint64(e.sealed) }

func isNote(kind byte) bool { return kind >= kindLost && kind <= kindMoved }

type presence byte

const (
	unknown presence = iota
	present
	lost
	left
)

// An author is what is known of an author at some moment.
type author struct {
	last   uint64 // number of its newest post ever taken
	link   link   // of that post
	time   int64  // of that post
	name   string // its latest, as it may be shown
	pinned bool   // not to be forgotten: we met it, and forget was not told of it since; or it is ourselves
	state  presence

	reached *netip.AddrPort // where we last reached it; nil if we never did
	fork    bool            // it contradicted itself: nothing more is taken
}

// isClosed says whether no further post of a will be taken.
func (a *author) isClosed() bool { return a.fork || a.state == left }

// A feed is what is held of one author. Guarded by history.mu.
type feed struct {
	id nodeID // immutable
	author
	logged  bool     // posts of it are or were in the log, so those that follow are new
	held    int      // events in the log
	posts   *store   // consecutive numbers up to last
	early   []post   // said and shown ahead of posts that are still missing; they come again in their turn
	notes   *store   // what this node noted of the author
	directs int64    // what the direct messages from it in notes cost
	seen    []*event // the last of notes that say lost or is back

	notedAt int64 // time of the last of seen, corrected to our clock; µs since 1970
	toldAt  int64 // when the minute began in which told counts; µs since 1970
	told    int   // sightings of the author that others told of since toldAt
}

func newFeed(id nodeID) *feed { return &feed{id: id, posts: new(store), notes: new(store)} }

func (f *feed) span() span {
	if f.posts.count == 0 {
		return span{}
	}
	return span{f.last - uint64(f.posts.count) + 1, f.last, f.link.mark()}
}

// above returns the index in posts of the first with a greater number.
func (f *feed) above(number uint64) int {
	return f.posts.count - int(min(f.last-min(number, f.last), uint64(f.posts.count)))
}

// A store holds events of one author in the order in which they came. It grows at its end
// and shrinks at its beginning without copying what it holds. Guarded by history.mu.
type store struct {
	pieces [][]*event // of storePiece each, but that the first shrinks and the last grows
	count  int
	age    int64 // when the first event counts as said, or if there is none the last that was dropped; µs since 1970
	place  int   // in history.oldest, counted from 1; 0: it is not in it
}

func (s *store) event(i int) *event {
	if i < len(s.pieces[0]) {
		return s.pieces[0][i]
	}
	i -= len(s.pieces[0])
	return s.pieces[1+i/storePiece][i%storePiece]
}

func (s *store) push(e *event) {
	last := len(s.pieces) - 1
	if last < 0 || len(s.pieces[last]) == storePiece {
		s.pieces = append(s.pieces, nil)
		last++
	}
	s.pieces[last] = append(s.pieces[last], e)
	s.count++
}

// shift takes the first event out of s.
func (s *store) shift() {
	s.pieces[0][0] = nil
	if s.pieces[0] = s.pieces[0][1:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	s.count--
}

// byAge is a heap (container/heap) of stores, of which the first begins with the oldest event.
type byAge []*store

func (b byAge) Len() int { return len(b) }
func (b byAge) Less(i, k int) bool {
	return cmp.Or(cmp.Compare(b[i].age, b[k].age), cmp.Compare(b[i].event(0).seq, b[k].event(0).seq)) < 0
}
func (b byAge) Swap(i, k int) {
	b[i], b[k] = b[k], b[i]
	b[i].place, b[k].place = i+1, k+1
}
func (b *byAge) Push(x any) {
	*b = append(*b, x.(*store))
	x.(*store).place = len(*b)
}
func (b *byAge) Pop() any {
	last := len(*b) - 1
	s := (*b)[last]
	s.place, (*b)[last] = 0, nil
	*b = (*b)[:last]
	return s
}

// A cursor is the place of a reader in the log. Its wake channel receives when
// there is more to take. The other fields are guarded by history.mu.
type cursor struct {
	next    *event // the next to take; history.end if there is none
	waiting int64  // what the events from next on cost
	loose   bool   // nothing is kept for it: what is dropped before it comes there, it never takes
	wake    chan struct{}
}

// wake makes one receive from c succeed, now or later. It doesn't block; c has room for one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

type history struct {
	self   nodeID                // immutable
	key    ed25519.PrivateKey    // immutable
	keep   int64                 // bytes; immutable
	clock  func() time.Time      // immutable
	addr   func() netip.AddrPort // what our posts name as our address; immutable
	nobody *feed                 // stands for authors that nothing is known of; immutable

	saying sync.Mutex // held while a post of our own is made, so that they are numbered one by one

	mu        sync.Mutex // guards all below
	end       event      // closes the log to a ring: the oldest event is later, the newest is earlier; seq is that of the next event
	size      int64      // what the log costs, with its authors
	came      int64      // what all events ever cost
	directs   int64      // what direct messages from others cost
	owed      int64      // what our own posts cost that setDelivered has not named
	oldest    byAge      // all stores of events, but for those that begin with what must stay
	feeds     map[nodeID]*feed
	empty     []*feed         // authors that nothing was held of lately, the longest known first
	names     map[string]bool // that anybody bore in this launch, as fold returns them
	latest    int64           // hybrid logical clock, µs since 1970
	horizon   int64           // time of the newest event dropped for keep
	cursors   []*cursor
	printer   *cursor           // the one that the queue is for
	queue     []batch           // what the printer prints before it goes on: a replay, answers to commands
	before    map[nodeID]uint64 // of a newcomer: posts up to these numbers are printed by release; else nil
	missing   map[nodeID]bool   // authors whose posts up to these numbers may not all have come yet
	heldFrom  uint64            // seq of the first event that release may print
	delivered uint64            // posts of our own up to this number are where they must be
	room      *sync.Cond        // a cursor moved, or a bound changed
}

func newHistory(key ed25519.PrivateKey, keep int64, clock func() time.Time, addr func() netip.AddrPort) *history {
	h := &history{key: key, keep: keep, clock: clock, addr: addr, nobody: newFeed(nodeID{}), feeds: map[nodeID]*feed{}, names: map[string]bool{}}
	h.end.earlier, h.end.later, h.end.seq = &h.end, &h.end, 1
	h.room = sync.NewCond(&h.mu)
	copy(h.self[:], key.Public().(ed25519.PublicKey))
	h.feedLocked(h.self).pinned = true
	h.printer = h.newCursor()
	return h
}

// newCursor returns a cursor at the end of the log.
func (h *history) newCursor() *cursor {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &cursor{next: &h.end, wake: make(chan struct{}, 1)}
	h.cursors = append(h.cursors, c)
	return c
}

// dropCursor forgets c: its reader has stopped.
func (h *history) dropCursor(c *cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cursors = slices.DeleteFunc(h.cursors, func(o *cursor) bool { return o == c })
	h.room.Broadcast()
}

// ---- adding

// say adds a post of our own, unless we have left. The text of a join is our name. Its
// caller may hold no mutex.
func (h *history) say(kind byte, text []byte) {
	h.saying.Lock()
	defer h.saying.Unlock()
	me := h.about(h.self)
	if me.state == left {
		return // what is typed after our leave comes too late
	}
	p := post{number: me.last + 1, time: max(h.now(), me.time+1), prev: me.link}
	p.kind, p.addr, p.name, p.text = kind, h.addr(), []byte(me.name), text
	if kind == kindJoin {
		p.name, p.text = text, nil
	}
	p = sealPost(h.key, h.self, p) // 20 to 60 µs, so not under the lock
	h.mu.Lock()
	defer h.mu.Unlock()
	h.appendLocked(h.feeds[h.self], []post{p}, true, false)
}

// now is nowLocked for callers that don't hold the lock.
func (h *history) now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nowLocked()
}

// nowLocked ticks the hybrid logical clock and returns it.
func (h *history) nowLocked() int64 {
	h.latest = min(max(h.clock().UnixMicro(), h.latest+1), latestTime)
	return h.latest
}

// add takes the posts of run that are new, and returns how many there were. proved says that
// the last signature was checked, which is so for all posts that don't come from their author.
//
// Posts after a gap are refused with errGap, unless overGap is set. Then those from
// before it stay in the log, but are no longer passed on. The first contradiction of
// an author is refused with errFork, and all that follows is passed over.
//
// The first posts that others send of an author may have been shown once, and
// dropped for keep, before the author was forgotten. So those that are not newer
// than what was dropped count as taken, and are not shown.
func (h *history) add(author nodeID, run []post, proved, overGap bool) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, all := h.feedLocked(author), len(run)
	if f.fork {
		return 0, nil
	}
	for len(run) > 0 && run[0].number <= f.last {
		if run[0].number == f.last && run[0].link != f.link {
			f.fork = true
			return 0, errFork
		}
		run = run[1:]
	}
	if len(run) == 0 {
		return 0, nil
	}
	first := &run[0]
	gap := first.number > f.last+1
	switch {
	case f.state == left, !gap && (first.prev != f.link || first.time <= f.time):
		f.fork = true
		return 0, errFork
	case gap && !overGap:
		return 0, errGap
	case gap:
		f.posts = new(store) // what was in the other is dropped when its time has come
	}
	count := len(run)
	for proved && !f.logged && len(run) > 0 && run[0].time <= h.horizon {
		h.advanceLocked(f, &run[0])
		run = run[1:]
	}
	if len(run) > 0 {
		f.logged = true
		h.appendLocked(f, run, proved, len(run) < all)
	}
	return count, nil
}

// appendLocked adds posts that follow on those of f. They share the memory of their frame,
// which goes with the last of them. Where that is much of keep, or there is more in the
// frame, each gets memory of its own.
func (h *history) appendLocked(f *feed, run []post, proved, more bool) {
	credible, last, cost := h.latestCredible(), len(run)-1, int64(0)
	apart, events := more || last > 0 && h.keep < shareFrom, make([]event, len(run))
	for i := range run {
		p, e := &run[i], &events[i]
		if apart {
			e, p.sealed = new(event), bytes.Clone(p.sealed)
		}
		f.setReached(p.reached)
		*e = event{feed: f, sealed: p.sealed, time: p.time, kind: p.kind, reached: f.reached, doubted: p.time > credible, shared: cost}
		if proved && i == last {
			e.signature.Store(1)
		}
		if !apart && i < last {
			cost = e.cost()
			e.shared -= cost
		}
		e.printed = f.wasEarly(p)
		h.advanceLocked(f, p)
		h.logLocked(f.posts, e)
		if f.id == h.self {
			h.owed += e.cost()
		}
	}
	h.heedLocked(f.time)
	h.grownLocked(len(run))
}

// latestCredible returns the latest time that what is said now can bear, if no clock
// is further ahead than clockLimit.
func (h *history) latestCredible() int64 { return h.clock().Add(clockLimit).UnixMicro() }

// showEarly prints posts that their author said while it still owes us earlier ones, and
// remembers that: they are taken when their turn comes, and not printed again. What exceeds
// maxEarlyPosts is not shown until then. It returns whether any are shown.
func (h *history) showEarly(author nodeID, run []post) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feedLocked(author)
	size, last := 0, f.last
	for _, p := range f.early {
		size, last = size+len(p.sealed), p.number
	}
	var shown batch
	for _, p := range run {
		if size += len(p.sealed); p.number <= last || size > maxEarlyPosts {
			continue
		}
		p = noError(parsePost(author, bytes.Clone(p.sealed))) // apart from the rest of its frame
		f.early = append(f.early, p)
		h.heedLocked(p.time)
		shown = append(shown, &event{feed: f, sealed: p.sealed, time: p.time, kind: p.kind, reached: f.reached})
	}
	if len(shown) > 0 {
		h.queue = append(h.queue, shown)
		wake(h.printer.wake)
	}
	return len(shown) > 0
}

// wasEarly says whether p, which f takes now, was shown early.
func (f *feed) wasEarly(p *post) bool {
	for len(f.early) > 0 && f.early[0].number < p.number {
		f.early = slices.Delete(f.early, 0, 1)
	}
	return len(f.early) > 0 && f.early[0].link == p.link
}

// takeEarly takes the posts that author said early, though those before them
// are missing: the author is gone, and nobody has them.
func (h *history) takeEarly(author nodeID) {
	h.mu.Lock()
	early := slices.Clone(h.knownLocked(author).early) // which add shortens
	h.mu.Unlock()
	h.addFound(map[nodeID][]post{author: early})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.knownLocked(author).early = nil // nor does anybody get those that are not signed
}

// clockJumped goes on from where the clock is, even if it was ahead before. It returns how far
// our own last post is ahead of the clock, since our next posts are stamped later than that one.
func (h *history) clockJumped() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock().UnixMicro()
	h.latest = 0
	for _, f := range h.feeds {
		h.heedLocked(f.time)
		f.notedAt, f.toldAt = min(f.notedAt, now), min(f.toldAt, now)
	}
	return time.Duration(h.feeds[h.self].time-now) * time.Microsecond
}

// heedLocked has what we say next sort after what was said at t, unless t is too
// far ahead of our clock.
func (h *history) heedLocked(t int64) {
	if t <= h.latestCredible() {
		h.latest = max(h.latest, t)
	}
}

// advanceLocked makes p the newest post of f, and notes what it tells of its author.
func (h *history) advanceLocked(f *feed, p *post) {
	f.last, f.link, f.time = p.number, p.link, p.time
	name := p.name
	if p.kind == kindRename {
		name = p.text
	}
	h.nameLocked(f, name)
	switch {
	case p.kind == kindLeave:
		f.state = left
	case f.state == unknown:
		f.state = present
	}
}

// nameLocked remembers what an author calls itself.
func (h *history) nameLocked(f *feed, name []byte) {
	if f.name != string(name) {
		f.name = cleanName(name)
		h.names[fold(f.name)] = true
		if len(h.names) > maxNames+2*len(h.feeds) {
			clear(h.names)
			for _, o := range h.feeds {
				h.names[fold(o.name)] = true
			}
		}
	}
}

// logLocked adds e to the log, and to the store of its author where it belongs.
func (h *history) logLocked(s *store, e *event) {
	e.seq, e.earlier, e.later = h.end.seq, h.end.earlier, &h.end
	e.earlier.later, h.end.earlier = e, e
	h.end.seq++
	for _, c := range h.cursors {
		c.waiting += e.cost()
		if c.next == &h.end {
			c.next = e
		}
	}
	h.size += e.cost()
	h.came += e.cost()
	if e.feed.held++; e.feed.held == 1 {
		h.size += authorCost
	}
	if s.push(e); s.count == 1 {
		h.rankLocked(s)
	}
}

// grownLocked makes the log, which grew by count events, fit keep again, and wakes its readers.
func (h *history) grownLocked(count int) {
	h.dropOldestLocked(dropAtOnce + 2*count)
	for _, c := range h.cursors {
		wake(c.wake)
	}
}

// note adds a note about author, and returns whether it was taken. One is not if it says
// what is so already (that a lost node is lost, or a present one is back), or is older
// than what was noted last or was dropped for keep.
func (h *history) note(author nodeID, p post) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.noteLocked(h.feedLocked(author), p, p.time)
}

// noteOf is note for what another node noticed. Its time is by that node's clock; at is the
// same by ours. Of one author such notes are taken maxSeen times in a minute.
func (h *history) noteOf(author nodeID, p post, at int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feedLocked(author)
	if now := h.clock().UnixMicro(); now-f.toldAt >= time.Minute.Microseconds() {
		f.toldAt, f.told = now, 0
	}
	if f.told == maxSeen || p.time == 0 || !h.noteLocked(f, p, at) {
		return false
	}
	f.told++
	return true
}

// noteLocked takes p, a note on f that was noticed at the given time of our clock, unless
// it is older than what is known. If its own time is 0, it is set to now.
func (h *history) noteLocked(f *feed, p post, at int64) bool {
	switch {
	case p.kind <= kindBack && p.time != 0 && (p.time <= h.horizon || at <= f.notedAt),
		p.kind == kindLost && (f.state == lost || f.state == left),
		p.kind == kindBack && f.state != lost:
		return false
	case p.kind == kindLost:
		f.state = lost
	case p.kind == kindBack:
		f.state = present
	}
	if p.time == 0 {
		p.time = h.nowLocked()
	}
	if p.name == nil {
		p.name = []byte(f.name)
	}
	f.setReached(p.reached)
	switch n := f.posts.count; {
	case p.addr.IsValid():
	case f.reached != nil:
		p.addr = *f.reached
	case n > 0:
		p.addr = f.posts.event(n - 1).content().addr // by its own word
	}
	h.heedLocked(p.time)
	e := &event{feed: f, sealed: appendContent(nil, p), time: p.time, kind: p.kind, reached: f.reached, doubted: p.time > h.latestCredible()}
	if p.kind <= kindBack {
		f.seen = append(f.seen, e)
		f.seen = f.seen[max(0, len(f.seen)-maxSeen):]
		f.notedAt = cmp.Or(at, p.time)
	}
	h.logLocked(f.notes, e)
	if e.kind == kindDirectFrom {
		f.directs += e.cost()
		h.directs += e.cost()
		h.boundDirectsLocked(f)
	}
	h.grownLocked(1)
	return true
}

func (h *history) feedLocked(id nodeID) *feed {
	f := h.feeds[id]
	if f == nil {
		f = newFeed(id)
		h.feeds[id] = f
		h.noteEmptyLocked(f)
	}
	return f
}

// reached says that author, who calls itself name, is here, and that we reached it
// at addr. An invalid addr says that another node has the better claim to the
// address. If the author moved, that is noted.
func (h *history) reached(author nodeID, addr netip.AddrPort, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feedLocked(author)
	f.pinned = true
	if f.name == "" {
		h.nameLocked(f, []byte(name))
	}
	switch {
	case !addr.IsValid():
		f.reached = nil
		return
	case f.reached != nil && *f.reached != addr && (f.state == present || f.state == lost):
		h.noteLocked(f, post{kind: kindMoved, text: []byte(addr.String())}, 0)
	}
	f.setReached(&addr)
}

// setReached sets reached, if addr is not nil. The events that come until it changes share it.
func (f *feed) setReached(addr *netip.AddrPort) {
	if addr != nil && (f.reached == nil || *f.reached != *addr) {
		f.reached = addr
	}
}

// forget allows an author to be forgotten, as soon as nothing is held of it.
func (h *history) forget(id nodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.feeds[id]; f != nil {
		f.pinned = false
		h.noteEmptyLocked(f)
	}
}

// noteEmptyLocked notes it if nothing is held of f any more. When that has happened to
// maxAuthors others since, f is forgotten, unless it is pinned or something is held of
// it again. As long as it is remembered, nothing that it said before is shown again.
func (h *history) noteEmptyLocked(f *feed) {
	if f.held > 0 || slices.Contains(h.empty, f) {
		return
	}
	h.empty = append(h.empty, f)
	if len(h.empty) > maxAuthors {
		if o := h.empty[0]; o.held == 0 && !o.pinned {
			delete(h.feeds, o.id)
		}
		h.empty = slices.Delete(h.empty, 0, 1)
	}
}

// knownLocked returns the feed of an author, or an empty one if nothing is known of
// it. The caller may not change it.
func (h *history) knownLocked(id nodeID) *feed { return cmp.Or(h.feeds[id], h.nobody) }

// about returns what is known of an author at this moment.
func (h *history) about(id nodeID) author {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.knownLocked(id).author
}

// bore says whether anybody has borne this name, or one that is alike, since we started.
func (h *history) bore(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	name = fold(name)
	if h.names[name] || isPlain([]byte(name)) {
		return h.names[name]
	}
	for known := range h.names {
		if rest, ok := cutAlike(name, known); ok && rest == "" {
			return true
		}
	}
	return false
}

// ---- bounds

// dropOldestLocked drops the oldest events until the rest fits keep, or until a cursor has
// still to pass the oldest; but no more than most, so that nobody waits for the lock for long.
func (h *history) dropOldestLocked(most int) {
	passed, now := h.passedLocked(), h.clock().UnixMicro()
	for ; most > 0 && h.size > h.keep && len(h.oldest) > 0; most-- {
		s := h.oldest[0]
		if s.event(0).seq > passed {
			return
		}
		h.horizon = max(h.horizon, min(s.age, now))
		h.dropFirstLocked(s)
	}
}

// dropFirstLocked drops the first event of s.
func (h *history) dropFirstLocked(s *store) {
	e := s.event(0)
	f := e.feed
	for _, c := range h.cursors {
		if e.seq >= c.next.seq {
			c.waiting -= e.cost()
		}
		if c.next == e {
			c.next = e.later
		}
	}
	e.earlier.later, e.later.earlier = e.later, e.earlier
	e.earlier, e.later = nil, nil // or one that is still in use would keep all that were dropped after it
	h.size -= e.cost()
	if e.kind == kindDirectFrom {
		f.directs -= e.cost()
		h.directs -= e.cost()
	}
	if f.held--; f.held == 0 {
		h.size -= authorCost
		h.noteEmptyLocked(f)
	}
	if len(f.seen) > 0 && f.seen[0] == e {
		f.seen = f.seen[1:]
	}
	s.shift()
	h.rankLocked(s)
}

// boundDirectsLocked drops the oldest notes on f while the direct messages that f has
// sent are more than its part of keep. If those of all nodes are more than theirs, it
// drops the notes on the node that has sent most. So a member that sends messages to
// us alone doesn't take the place of what everybody said.
func (h *history) boundDirectsLocked(f *feed) {
	one, all := h.keep/directShare, 4*h.keep/directShare
	if f.directs <= one && h.directs > all {
		all -= one / 4 // so that not each message has us look at all authors
		for _, o := range h.feeds {
			if o.directs > f.directs {
				f = o
			}
		}
	}
	passed := h.passedLocked()
	for (f.directs > one || h.directs > all) && f.notes.count > 0 && f.notes.event(0).seq <= passed {
		h.dropFirstLocked(f.notes)
	}
}

// rankLocked puts s where it belongs in oldest, now that its first event is another, or
// may go. It is in there unless it begins with a post of our own that a connected node
// has still to take.
func (h *history) rankLocked(s *store) {
	may := false
	if s.count > 0 {
		e := s.event(0)
		if !e.doubted {
			s.age = max(s.age, e.time)
		}
		may = isNote(e.kind) || e.feed.id != h.self || e.number() <= h.delivered
	}
	switch {
	case !may && s.place > 0:
		heap.Remove(&h.oldest, s.place-1)
	case may && s.place > 0:
		heap.Fix(&h.oldest, s.place-1)
	case may:
		heap.Push(&h.oldest, s)
	}
}

// waitRoom returns when more may be added, or when ctx ends. own says that it is
// posts of our own.
func (h *history) waitRoom(ctx context.Context, own bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hasRoomLocked(own) {
		return
	}
	stop := context.AfterFunc(ctx, func() {
		h.mu.Lock() // or a goroutine that is about to wait would miss it
		defer h.mu.Unlock()
		h.room.Broadcast()
	})
	defer stop()
	for !h.hasRoomLocked(own) && ctx.Err() == nil {
		h.room.Wait()
	}
}

// hasRoomLocked says whether more may be added. At most half of keep may wait for
// the slowest cursor, and what waits may not stand in the way of what must be
// dropped. For posts of our own, at most half of keep may be undelivered ones.
func (h *history) hasRoomLocked(own bool) bool {
	if h.size <= h.keep/2 {
		return true
	}
	waiting := int64(0)
	for _, c := range h.cursors {
		if !c.loose {
			waiting = max(waiting, c.waiting)
		}
	}
	return waiting <= h.keep/2 && (waiting == 0 || h.size <= h.keep+h.keep/spareKeep) && (!own || h.owed <= h.keep/2)
}

// passedLocked returns the seq of the last event that all cursors have passed.
func (h *history) passedLocked() uint64 {
	passed := h.end.seq - 1
	for _, c := range h.cursors {
		if !c.loose {
			passed = min(passed, c.next.seq-1)
		}
	}
	return passed
}

// loosen makes c loose, or no longer so.
func (h *history) loosen(c *cursor, loose bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.loose = loose
	h.room.Broadcast()
}

// setDelivered allows our own posts up to number to be dropped.
func (h *history) setDelivered(number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feeds[h.self]
	from, to := f.above(h.delivered), f.above(number)
	for ; from < to; from++ {
		h.owed -= f.posts.event(from).cost()
	}
	for ; to < from; to++ {
		h.owed += f.posts.event(to).cost()
	}
	h.delivered = number
	h.rankLocked(f.posts)
	h.dropOldestLocked(dropAtOnce)
	h.room.Broadcast()
}

// ---- reading

// span says which posts of author are held.
func (h *history) span(author nodeID) span {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.knownLocked(author).span()
}

// authors returns the authors whose posts are held and whose IDs follow on after, in
// the order of their IDs, but at most so many. It says whether there are more.
func (h *history) authors(after nodeID, most int) (part []nodeID, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, f := range h.feeds {
		if !after.less(id) || more && part[most-1].less(id) || f.posts.count == 0 { // to look at f takes longest
			continue
		}
		if more = more || len(part) == most; more && part[most-1].less(id) {
			continue
		}
		at, _ := slices.BinarySearchFunc(part, id, func(a, b nodeID) int { return bytes.Compare(a[:], b[:]) })
		part = slices.Insert(part, at, id)
		part = part[:min(len(part), most)]
	}
	return part, more
}

// total returns what all events cost that were ever held, which is more than the
// bytes of their posts.
func (h *history) total() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.came
}

// due appends to list the subs of stirred authors for which there is something to
// send. It takes the others out of stirred. The sub of our own feed goes first, if
// the peer has our posts up to number base, the last before it came. The others
// follow, those with the fewest posts first, so a fresh line goes before a long
// history. The caller holds the lock of the node.
func (h *history) due(list []*sub, subs map[nodeID]*sub, stirred map[nodeID]bool, base uint64) []*sub {
	h.mu.Lock()
	defer h.mu.Unlock()
	for author := range stirred {
		s, f := subs[author], h.knownLocked(author)
		if s != nil {
			s.behind = f.last + 1 - min(s.next, f.last+1)
		}
		if s != nil && (s.behind > 0 || len(f.seen) > 0 && f.seen[len(f.seen)-1].seq > s.notes) {
			if list = append(list, s); author == h.self && s.next > base {
				s.behind = 0
			}
		} else {
			delete(stirred, author)
		}
	}
	slices.SortFunc(list, func(a, b *sub) int { return cmp.Compare(a.behind, b.behind) })
	return list
}

// posts returns the events of author's feed from the given number on, up to most bytes of
// them, but at least one if there is one, and the number of the first.
func (h *history) posts(author nodeID, from uint64, most int) (events []*event, first uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.knownLocked(author)
	start := f.above(from - 1)
	for i, size := start, 0; i < f.posts.count; i++ {
		e := f.posts.event(i)
		if size += len(e.sealed) + 4; size > most && len(events) > 0 {
			break
		}
		events = append(events, e)
	}
	return events, f.last - uint64(f.posts.count-start) + 1
}

// sightings returns the notes on author, lost and is back, that came after the given seq.
func (h *history) sightings(author nodeID, after uint64) []*event {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := slices.Clone(h.knownLocked(author).seen)
	return slices.DeleteFunc(seen, func(e *event) bool { return e.seq <= after })
}

// A batch is what a reader of the log gets at once.
type batch []*event

// answer returns lines of our own, of this moment, as events without a feed.
func answer(lines ...string) (b batch) {
	for _, s := range lines {
		b = append(b, &event{sealed: []byte(s), time: time.Now().UnixMicro()})
	}
	return b
}

// take replaces what is in b by the next events, of about the given size in bytes, and moves c
// past them. It returns false if there are none. The printer gets what is queued for it first.
func (h *history) take(c *cursor, b *batch, size int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	*b = (*b)[:0]
	printing := c == h.printer
	for printing && len(h.queue) > 0 && size > 0 {
		if first := h.queue[0]; len(first) > 0 {
			size -= len(first[0].sealed)
			*b, h.queue[0] = append(*b, first[0]), first[1:]
		} else {
			h.queue = slices.Delete(h.queue, 0, 1)
		}
	}
	for c.next != &h.end && size > 0 {
		e := c.next
		c.next, c.waiting = e.later, c.waiting-e.cost()
		if printing && (e.printed || !h.isNews(e) || h.isBefore(e)) {
			continue
		}
		e.printed = e.printed || printing
		size -= len(e.sealed)
		*b = append(*b, e)
	}
	h.dropOldestLocked(dropAtOnce)
	h.room.Broadcast()
	return len(*b) > 0
}

// follow calls each with the events that c passes, until that fails, or until ctx
// has ended and c is at the end of the log. Only one goroutine may use c.
func (h *history) follow(ctx context.Context, c *cursor, each func(batch) error) error {
	defer h.dropCursor(c)
	for b := new(batch); ; {
		ending := ctx.Err() != nil // asked before take, so that all that was added before the end is taken
		for h.take(c, b, followSize) {
			if err := each(*b); err != nil {
				return err
			}
		}
		if ending {
			return nil
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
		}
	}
}

// isNews says whether e is printed when it comes: our own joins and the like are not.
func (h *history) isNews(e *event) bool {
	return e.kind == kindLines || e.feed.id != h.self && e.lines() > 0
}

// show queues b for the printer. It returns false if so much is queued already that
// nobody seems to read.
func (h *history) show(b batch) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) >= maxQueue {
		return false
	}
	h.queue = append(h.queue, b)
	wake(h.printer.wake)
	return true
}

// chronology returns all events in chronological order.
func (h *history) chronology() batch {
	h.mu.Lock()
	c := &cursor{next: h.end.later, waiting: h.size}
	h.cursors = append(h.cursors, c) // nothing is dropped meanwhile
	h.mu.Unlock()
	defer h.dropCursor(c)
	var all batch
	for b := new(batch); h.take(c, b, 1<<20); {
		all = append(all, *b...)
	}
	slices.SortFunc(all, (*event).compare)
	return all
}

// hold makes us a newcomer: what was said before we came is not printed until
// release, namely the posts of each author up to the number that await is told.
// What is said after that is printed at once.
func (h *history) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before, h.missing, h.heldFrom = map[nodeID]uint64{}, map[nodeID]bool{}, h.printer.next.seq
}

// await says that there were posts of author up to number before we came. What the
// author itself says of that counts for more than what others say.
func (h *history) await(author nodeID, number uint64, itself bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.before != nil && (itself || number > h.before[author]) {
		h.before[author] = number
		h.missing[author] = true
	}
}

// awaited returns up to which number author's posts are awaited; 0: none are.
func (h *history) awaited(author nodeID) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.before[author]
}

// eachMissing calls each for every author whose awaited posts have not all come, with
// the number of the newest post that has, until each returns false. It returns
// whether any posts are awaited, whether or not they have come.
func (h *history) eachMissing(each func(author nodeID, last uint64) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for author := range h.missing {
		f := h.knownLocked(author)
		if f.last >= h.before[author] || f.isClosed() {
			delete(h.missing, author)
		} else if !each(author, f.last) {
			break
		}
	}
	return len(h.before) > 0
}

// isBefore says whether release is to print e. A note on an author whose posts
// are not awaited is not: a newcomer's block has no lost of a node without its join.
func (h *history) isBefore(e *event) bool {
	number := h.before[e.feed.id]
	return number > 0 && e.kind < kindDirectFrom && (isNote(e.kind) || e.number() <= number)
}

// release has the printer print what was said before we came (the awaited posts, and the
// notes that came with them) as one block in chronological order, and then go on with the
// rest in order of arrival. The block is framed unless it holds nothing but joins of nodes
// that are here. The function here is called with mu held.
func (h *history) release(from string, here func(nodeID) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var replay batch
	framed, c, waiting := false, h.printer, int64(0)
	c.next, c.waiting = &h.end, 0
	for e := h.end.earlier; e != &h.end && e.seq >= h.heldFrom; e = e.earlier {
		waiting += e.cost()
		switch {
		case e.printed || !h.isNews(e):
		case h.isBefore(e):
			e.printed = true
			replay = append(replay, e)
			framed = framed || e.kind != kindJoin || !here(e.feed.id)
		default: // the printer takes it in its turn
			c.next, c.waiting = e, waiting
		}
	}
	h.before, h.missing = nil, nil
	slices.SortFunc(replay, (*event).compare)
	if framed {
		replay = asHistory(replay, " from "+from)
	}
	h.queue = slices.Insert(h.queue, 0, replay)
	wake(c.wake)
	h.room.Broadcast()
}

// ---- the history file

// load takes the history that is in r, a history file. It is not printed, but told
// to other nodes like all that is held. load returns how many bytes were damaged.
// It refuses what is no history file, and that of another room: what was said under a
// secret must not be told to others. It is called before anything is printed.
func (h *history) load(r io.Reader, room nodeID) (damaged int64, err error) {
	h.dropCursor(h.printer)
	defer func() { h.printer, h.names = h.newCursor(), map[string]bool{} }()
	found, size := map[nodeID][]post{}, 0
	damaged, err = readRecords(r, func(x record) error {
		if x.typ == recordRoom && x.author != room {
			return errOtherRoom
		}
		if size += len(x.body); size > loadAtOnce {
			h.addFound(found)
			size = 0
		}
		return h.loadRecord(x, found)
	})
	if err == nil {
		h.addFound(found)
	}
	return damaged, err
}

// loadRecord adds a note to h. A post it puts into found, beside others of its
// author.
func (h *history) loadRecord(x record, found map[nodeID][]post) error {
	switch x.typ {
	case recordNote:
		p, err := parseContent(x.body)
		if err == nil && !isNote(p.kind) {
			err = fmt.Errorf("note of kind %d", p.kind)
		}
		if p.reached = x.reached; err == nil {
			h.note(x.author, p)
		}
		return err
	case recordPost:
		p, err := parsePost(x.author, bytes.Clone(x.body))
		if p.reached = x.reached; err == nil {
			found[x.author] = append(found[x.author], p)
		}
		return err
	}
	return nil
}

// addFound takes the posts that were found in a file. Some may be missing, and if
// two processes wrote it, others stand there twice and not in order. Each piece
// without a gap is taken up to its last post that is signed. What follows on that
// one in the last piece stays in found: what is found later may prove it.
func (h *history) addFound(found map[nodeID][]post) {
	for author, posts := range found {
		slices.SortStableFunc(posts, func(a, b post) int { return cmp.Compare(a.number, b.number) })
		// Each copy of a post would end a piece, the signature of which takes long to check.
		posts = slices.CompactFunc(posts, func(a, b post) bool { return a.link == b.link })
		for len(posts) > 0 {
			n := 1
			for n < len(posts) && follows(&posts[n-1], &posts[n]) {
				n++
			}
			piece := posts[:n]
			n = proven(n, func(i int) bool { return piece[i].verify(author) })
			h.add(author, piece[:n], true, true)
			found[author], posts = piece[max(n, len(piece)-maxUnsigned):], posts[len(piece):]
		}
	}
}

// save writes first, and then the events that c passes, to w until ctx ends. Each
// Write holds whole records, so that two processes can write to one file. One that
// fails is tried again until ctx ends, and what keep drops meanwhile is missing in w.
// failing hears of the first error of each failure, and of nil when it is over.
func (h *history) save(ctx context.Context, c *cursor, first []byte, w io.Writer, failing func(error)) error {
	write := func(b []byte) error {
		_, err := w.Write(b)
		if err == nil {
			return nil
		}
		failing(err)
		h.loosen(c, true)
		defer h.loosen(c, false)
		for err != nil && ctx.Err() == nil {
			select {
			case <-time.After(saveAgain):
			case <-ctx.Done(): // once more
			}
			_, err = w.Write(b)
		}
		if err == nil {
			failing(nil)
		}
		return err
	}
	out := first
	return h.follow(ctx, c, func(b batch) error {
		for _, e := range b {
			x := record{typ: recordPost, author: e.feed.id, reached: e.reached, body: e.sealed}
			if isNote(e.kind) {
				x.typ = recordNote
			} else if e.feed.id == h.self {
				addr := e.content().addr // in the next launch we are somebody else
				x.reached = &addr
			}
			out = appendRecord(out, x)
		}
		err := write(out)
		out = out[:0]
		return err
	})
}

// ---- what is missing, and which peer to ask for it

const (
	askAfter       = 500 * time.Millisecond  // before a third is asked for the feed of a node that somebody is connected with
	askAfterBeacon = 3 * time.Second         // before a third is asked for the feed of a node whose beacons we hear: it is about to connect
	noProgress     = 2 * time.Second         // without posts of a feed that was asked for, before somebody else is asked
	trial          = 3 * time.Second         // a source that still brings something serves so long before another has its turn, and before its rate counts
	maxBackoff     = 5                       // doublings of noProgress before a peer that brings nothing is asked again, where much is lacking
	maxStalls      = 3                       // times in a row that nothing came, after which a claim is believed last
	gapPatience    = 2 * time.Second         // before a gap is left out: a node that has the posts may be about to connect; a newcomer's wait to print is longer
	healPatience   = 5 * time.Second         // before a gap is left out if we hold posts from before it: a link that was cut is used again within this time
	gatherPatience = 4 * time.Second         // in which gatherFloor bytes must come, or a newcomer prints what it has
	latePatience   = 2250 * time.Millisecond // for which a newcomer waits for others, once it has all that one peer claims to have
	mostClaims     = 2048                    // claims of one peer that we remember
	maxClaims      = 12_000                  // claims of all peers together; each takes 600 bytes while we ask for its posts
	fewClaims      = 64                      // claims of each peer, however many peers there are
	maxSources     = 2048                    // feeds of absent authors that we stay subscribed to
	planAtOnce     = 512                     // authors in lacking, beyond which each is looked at once a second
	planMost       = 80_000                  // claims that are looked at in a tick
	maxLooks       = 1000                    // looks at authors whose awaited posts are missing, at once
	gatherFloor    = 8 << 10                 // bytes in gatherPatience, a quarter of what 64 kbit/s carry: less is not waited for
)

// A claim is what a peer has of an author, by its own word.
type claim struct {
	span
	addr   netip.AddrPort // where it is connected with the author; invalid: it isn't
	since  int64          // when it first said so, s since 1970
	stalls uint64         // requests in a row that brought nothing; a repeated claim keeps them
}

// An offer is what one peer can give of an author's feed.
type offer struct {
	claim
	isAuthor bool
	served   served     // by this peer, of any feed
	host     netip.Addr // of the peer
}

// A served is what a peer has sent of the feeds that it is the source of.
type served struct {
	bytes int64
	busy  time.Duration // for how long something was due from it
}

// rate returns how fast the peer serves, in bytes per second.
func (s served) rate() int64 {
	return int64(float64(s.bytes) / max(s.busy, time.Millisecond).Seconds())
}

// A help is what an offer is worth to us, who have the posts up to some number. A
// smaller one is better.
type help int

const (
	hasNext  help = iota // it has the next post
	hasLater             // it has later ones only
	isAuthor             // it has no more than we, but is the author, who sends what it says next
	hearsOf              // it has no more than we, but is connected with the author, and will
	knewIt               // it has no more than we, but may know what became of the author
	noHelp
)

func (o *offer) help(mine uint64) help {
	switch {
	case o.last > mine && o.first <= mine+1:
		return hasNext
	case o.last > mine:
		return hasLater
	case o.isAuthor:
		return isAuthor
	case o.addr.IsValid():
		return hearsOf
	case o.last > 0:
		return knewIt
	}
	return noHelp
}

// A lack is what is known of an author that some peer may have more of than we: all
// that decides what to do about it.
type lack struct {
	mine    author
	waited  time.Duration // since lackLocked noted it
	dry     time.Duration // since then, or since a post of it was taken
	delay   time.Duration // to wait before anybody is asked: the author may be about to connect
	resting bool          // our connection with the author rests: it opens it when it says something
	offers  []offer       // what our peers can give
	source  int           // index of the offer that was taken up, or of the author's, who sends unasked; -1: none
	over    bool          // the source was asked to leave the gap out
	quiet   time.Duration // since the source last brought something
}

// A verdict is what to do about a lack.
type verdict struct {
	ask     int  // index of the offer to take up
	want    want // what to ask for; from 0: nothing
	settled bool // nothing is lacking any more
	stalled bool // the source was asked, and brought nothing
}

// decide says what to do about l.
//
// An author has no special place among those who have its posts: it may have dropped the
// first ones, which a third still holds. It only needn't be asked for what it says next.
//
// A sender stops at a gap that its -keep has left. The receiver may ask it to leave the gap
// out, but waits gapPatience first: a node may connect that has the missing posts, even if
// none is known to come. After a cut, and to a newcomer, the first of several nodes that is
// heard looks like the only one. A node that holds posts from before the gap waits
// healPatience from the last of them that came, in which a healed link is used again.
//
// If no peer has more than we, one that is connected with the author is asked for
// what follows, so that we hear what the author says next, and what becomes of it.
// Of an author who seems to be here still, though nobody is connected with it, a
// peer that has its posts may know that it was lost while we were cut off.
func (l *lack) decide() verdict {
	best, can := l.best()
	sourceCan := noHelp
	if l.source >= 0 {
		sourceCan = l.offers[l.source].help(l.mine.last)
	}
	serves := sourceCan == hasNext || sourceCan == hasLater && l.over || sourceCan == isAuthor
	next := want{from: l.mine.last + 1, over: can == hasLater}
	switch {
	case l.mine.isClosed():
		return verdict{settled: true}
	case l.waited < l.delay:
		return verdict{}
	case can > hasLater:
		gone := l.mine.state == lost && can == knewIt
		if can == noHelp || sourceCan == can || l.resting || l.mine.last == 0 || gone {
			return verdict{settled: true}
		}
		return verdict{ask: best, want: next, settled: true}
	case can == hasLater && (l.dry < gapPatience || l.mine.last > 0 && l.dry < healPatience):
		return verdict{}
	case serves && l.quiet < noProgress: // the posts are on their way
		if i := l.faster(); i >= 0 {
			return verdict{ask: i, want: next}
		}
		return verdict{}
	}
	if serves {
		l.offers[l.source].stalls++
		if other, help := l.best(); help == can { // or else there is a gap, which wants patience
			best = other
		}
	}
	return verdict{ask: best, want: next, stalled: serves}
}

// faster returns the offer to take up in place of that of a source that has
// served for a while, or -1. Whether the source is slow, or the path to us, is known
// only after another peer has had a turn. Each peer gets one turn, so on a slow path
// no more is sent twice than what is under way at that moment. An author is not
// replaced: what it says would come twice, since it sends that unasked.
func (l *lack) faster() (best int) {
	best = -1
	source := l.offers[l.source]
	if source.isAuthor || source.served.busy < trial {
		return best
	}
	rate := 2 * source.served.rate()
	for i, o := range l.offers {
		switch {
		case i == l.source || o.isAuthor || o.stalls > 0 || o.help(l.mine.last) != hasNext:
		case o.served.busy < trial && o.host != source.host:
			return i
		case o.served.busy < trial:
			best, rate = i, math.MaxInt64
		case o.served.rate() > rate:
			best, rate = i, o.served.rate()
		}
	}
	return best
}

// best returns the index of the offer to take up, and what it is worth. The order is:
//
//   - An offer of more posts than we have comes first, then the author, then others.
//   - Peers that brought nothing maxStalls times in a row come after all others:
//     a member that claims more each second would otherwise be asked for ever,
//     and others who have the posts never.
//   - The offer with the smallest gap comes first.
//   - The one whose host failed less often comes first, since many peers of one
//     host may be one member; then the one that failed less often itself, and then
//     the one with most posts.
func (l *lack) best() (best int, can help) {
	can = noHelp
	chosen, failed := new(offer), map[netip.Addr]uint64{}
	for _, o := range l.offers {
		if o.stalls > 0 {
			failed[o.host] += o.stalls
		}
	}
	for i := range l.offers {
		o := &l.offers[i]
		h := o.help(l.mine.last)
		if h == noHelp {
			continue
		}
		order := cmp.Or(
			cmp.Compare(max(h, hasLater), max(can, hasLater)),
			cmp.Compare(o.stalls/maxStalls, chosen.stalls/maxStalls),
			cmp.Compare(max(o.first, l.mine.last+1), max(chosen.first, l.mine.last+1)),
			cmp.Compare(failed[o.host], failed[chosen.host]),
			cmp.Compare(o.stalls, chosen.stalls),
			cmp.Compare(chosen.last, o.last),
		)
		if order < 0 {
			best, can, chosen = i, h, o
		}
	}
	return best, can
}

// An exchange is what of the feeds is still to be had, and to be told.
type exchange struct {
	lacking map[nodeID]lacked   // authors that somebody may have more of than we
	sources map[nodeID]*source  // who sends us a feed
	news    map[nodeID]bulletin // what peers are to hear of
	gather  gather

	offers   []offer // memory that decideLocked uses again
	offering []*conn // memory that decideLocked uses again
}

// A lacked says since when we know that we lack something.
type lacked struct {
	since time.Time
	took  time.Time // when a post of it was last taken
	again time.Time // before this we needn't look for somebody to ask
}

// A bulletin is what peers are to hear of an author: its posts, or that it came or went.
type bulletin struct {
	cameWent bool    // our connection with the author came or went
	known    []*conn // peers that had its posts already
}

// A source is who sends us a feed: its author, unasked, or a peer that we asked.
type source struct {
	from    *conn
	since   time.Time  // when it last brought something, or began to owe us something
	over    bool       // it was asked to leave out what nobody has
	waiting []sighting // of an author whose join is still on its way
}

// lackLocked notes that somebody may have more of author, who isn't we, than we.
func (n *node) lackLocked(author nodeID) {
	l, ok := n.lacking[author]
	if !ok {
		l.since = time.Now()
		if s := n.sources[author]; s != nil {
			s.since = l.since // noProgress is counted anew, since until now nothing was due
		}
	}
	n.lacking[author] = lacked{since: l.since, took: l.took}
}

// planLocked sees to it that every feed we lack posts of is asked for at one peer that has
// them. Where so many are lacking that it takes long to look at all, some have to wait.
func (n *node) planLocked(now time.Time) {
	serving := map[*conn]bool{}
	most := planMost / (len(n.conns) + 40)
	for author, l := range n.lacking {
		if s := n.sources[author]; s != nil {
			serving[s.from] = true
		}
		if most > 0 && !now.Before(l.again) {
			most--
			n.decideLocked(author, l, now)
		}
	}
	for c := range serving {
		c.served.busy += min(now.Sub(n.pulse.tickAt), tickEvery)
	}
}

// decideLocked asks a peer for what is lacking of author, if its lack decides so.
func (n *node) decideLocked(author nodeID, since lacked, now time.Time) {
	l := lack{mine: n.history.about(author), waited: now.Sub(since.since), delay: n.delayLocked(author, now), source: -1}
	l.resting, l.dry = n.conns[author] == nil && n.reachedLocked(author).IsValid(), min(l.waited, now.Sub(since.took))
	s, offers, peers := n.sources[author], n.offers[:0], n.offering[:0]
	for _, c := range n.conns {
		if s != nil && s.from == c {
			l.source, l.over = len(peers), s.over
			l.quiet = now.Sub(s.since)
		}
		if c.firstPart {
			offers, peers = append(offers, offer{c.theirs[author], c.peer == author, c.served, c.addr.Addr()}), append(peers, c)
		} else if l.source == len(peers) {
			l.source = -1 // nothing can be said of it yet
		}
	}
	l.offers, n.offers, n.offering = offers, offers, peers
	do := l.decide()
	if do.stalled {
		claimed := s.from.theirs[author]
		claimed.stalls++
		s.from.theirs[author] = claimed
		if len(n.lacking) > planAtOnce && claimed.stalls > maxStalls && author != s.from.peer { // it is in the way of others
			delete(s.from.theirs, author)
			s.from.dropped = true
			n.dropSourceLocked(author)
			return
		}
	}
	if do.settled {
		delete(n.lacking, author)
		if do.want.from == 0 && !n.reachedLocked(author).IsValid() {
			n.history.takeEarly(author)
			n.relayLocked(author)
		}
		n.tidyLocked(author, true)
	} else if len(n.lacking) > planAtOnce {
		since.again = now.Add(time.Second)
		if do.want.from > 0 {
			since.again = now.Add(noProgress << min(peers[do.ask].theirs[author].stalls, maxBackoff))
		}
		n.lacking[author] = since
	}
	if do.want.from > 0 {
		n.askLocked(peers[do.ask], author, do.want)
	}
}

// tidyLocked forgets what peers said to have of author, and we have as well. It
// may still help to find out what became of the author, unless that is settled.
func (n *node) tidyLocked(author nodeID, settled bool) {
	mine := n.history.about(author)
	if !settled && mine.state == present && !n.reachedLocked(author).IsValid() {
		return
	}
	for _, c := range n.conns {
		t, ok := c.theirs[author]
		if !ok || author == c.peer || t.addr.IsValid() || t.last > mine.last {
			continue
		}
		delete(c.theirs, author)
		if b, told := n.news[author]; told && t.last == mine.last {
			b.known = append(b.known, c)
			n.news[author] = b
		}
		c.askOnLocked()
	}
}

// askLocked asks the peer of c for author's posts, and takes back what it asked of
// another. An author sends its posts all the same.
func (n *node) askLocked(c *conn, author nodeID, w want) {
	if s := n.sources[author]; s != nil && s.from != c && s.from.peer != author {
		n.dropSourceLocked(author)
	}
	n.sources[author] = &source{from: c, since: time.Now(), over: w.over}
	c.wants[author] = w
	wake(c.wake)
}

// dropSourceLocked asks nobody for author's posts any more.
func (n *node) dropSourceLocked(author nodeID) {
	if s := n.sources[author]; s != nil {
		s.from.wants[author] = want{}
		wake(s.from.wake)
		delete(n.sources, author)
	}
}

// forgetSourceLocked forgets who sent us the feed of an author that has left. One that
// was lost may come back, and the node that brings it says so; but where we would have to
// remember many, we ask again when it does.
func (n *node) forgetSourceLocked(author nodeID) {
	switch state := n.history.about(author).state; {
	case state == left:
		delete(n.sources, author)
	case state == lost && len(n.sources) > maxSources && !n.hereLocked(author):
		n.dropSourceLocked(author)
	}
}

// A gather is how a newcomer waits for what was said before it came, which it
// prints in one frame. What is missing itself, the history knows.
type gather struct {
	from   string    // the first peer, as it is shown; empty until there is one
	done   bool      // the frame is printed
	bytes  int       // of awaited posts that came since at
	at     time.Time // when bytes last reached gatherFloor
	owedAt time.Time // when each peer last owed us something of what it claims to have
}

// came counts bytes of posts that may be awaited.
func (g *gather) came(bytes int, now time.Time) {
	if g.bytes += bytes; g.bytes >= gatherFloor {
		g.at, g.bytes = now, 0
	}
}

// gatherLocked ends a newcomer's wait when all is in that the first peers announced, or when too
// little has come for gatherPatience. Once all is in that one of them claims to have, it waits
// for others no longer than latePatience: members who claim anything, under many names, don't
// keep that from the screen. Unless it is to be thorough, it only asks whether all is in.
func (n *node) gatherLocked(now time.Time, thorough bool) {
	g := &n.gather
	if g.done || g.from == "" {
		return
	}
	owing, looks := map[*conn]bool{}, 0
	for _, c := range n.conns {
		if c.firstPart && !c.toldAll { // the rest of its vector is still to come
			owing[c] = true
		}
	}
	awaiting := n.history.eachMissing(func(author nodeID, last uint64) bool {
		for _, c := range n.conns {
			if c.theirs[author].last > last || c.peer == author && c.vector > last {
				owing[c] = owing[c] || c.theirs[author].stalls == 0 // what it was asked for in vain, it may lack as well
			}
		}
		looks++
		return looks < maxLooks && (thorough || len(owing) == 0)
	})
	if len(owing) > 0 && !thorough {
		return
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(n.conns)), func(c *conn) bool { return c.firstPart && !owing[c] }) {
		g.owedAt = now
	}
	if (len(owing) > 0 || !awaiting) && now.Sub(g.at) < gatherPatience && now.Sub(g.owedAt) < latePatience {
		return
	}
	*g = gather{from: g.from, done: true}
	n.history.release(g.from, n.hereLocked)
}
