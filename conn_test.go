package main

// What becomes of a single connection: who is let in, what its end means, and what
// a node leaves out so that none of it costs much. Each of these tests shows what a
// condition of peer.go is for that a room notices only on a bad day.

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// ---- who is let in

// TestSilentStrangerIsHungUpOn: somebody connects and says nothing.
func TestSilentStrangerIsHungUpOn(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		raw, began := l.dial(l.enter("Ann", deaf())), time.Now()
		took := time.Duration(0)
		go func() {
			raw.Read(make([]byte, 1))
			took = time.Since(began)
		}()
		after(2 * handshakeTimeout)
		if took != handshakeTimeout {
			t.Errorf("the connection ends after %v, want %v", took, handshakeTimeout)
		}
	})
}

func TestNobodyConnectsWithItself(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf(), func(g *guest, o *options) { told(g)(g, o) })
		after(time.Minute)
		if m := ann.members(); slices.ContainsFunc(m, func(m member) bool { return m.id != nodeID{} }) {
			t.Errorf("members of Ann, who is alone: %+v", m)
		}
		ann.wantLines(0, ``)
		ann.wantNoWarning(t)
	})
}

// TestFloodOfHandshakesEndsNoOtherHosts: the one under way with another host is the
// oldest, and stays.
func TestFloodOfHandshakesEndsNoOtherHosts(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		n := l.enter("Ann", deaf()).node
		comes := func(host byte) *conn {
			_, raw := l.wire(&guest{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, host}), 7700)}, &guest{})
			c, _ := n.enlist(raw, false)
			return c
		}
		others := []*conn{comes(2), comes(3)}
		for range 2 * maxHandshakes {
			comes(4)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, c := range others {
			if !slices.Contains(n.handshakes, c) {
				t.Errorf("that with %v gives way to those of another host", c.addr.Addr())
			}
		}
		if len(n.handshakes) != maxHandshakes {
			t.Errorf("%d handshakes are under way, want %d", len(n.handshakes), maxHandshakes)
		}
		n.handshakes = nil
	})
}

// idBeside returns a key whose ID is lower, or higher, than id.
func idBeside(id nodeID, lower bool) (key ed25519.PrivateKey) {
	for key = newKey(); idOf(key).less(id) != lower; {
		key = newKey()
	}
	return key
}

// TestProtocolErrorIsAnsweredByBye, also where TCP would drop what we said last: closed
// with something unread, it tells the peer so much that the peer reads nothing more.
func TestProtocolErrorIsAnsweredByBye(t *testing.T) {
	t.Parallel()
	ann := chat(t, freePort(t), []string{"Ann"})
	addr := fmt.Sprint("127.0.0.1:", ready(ann))
	for i := range 20 {
		raw := noError(net.Dial("tcp4", addr))
		v := noError(visit(raw, newRoomKey(""), newKey(), helloOf("Eve")))
		v.says(framed(frameWant, []byte("no author")), make([]byte, 200_000))
		why := byte(0)
		err := v.waitsFor(func(typ byte, body []byte) bool {
			if typ == frameBye {
				why = noError(parseBye(body))
			}
			return why != 0
		})
		raw.Close()
		if why != byeProtocol {
			t.Fatalf("connection %d ends with BYE %d (%v), want %d", i, why, err, byeProtocol)
		}
	}
}

// TestSecondConnectionNeedsALaterEpoch: it is refused as a duplicate, in words,
// unless the peer says that the first one has failed.
func TestSecondConnectionNeedsALaterEpoch(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		key := idBeside(ann.id, false)
		for _, c := range []struct {
			epoch uint32
			want  string
		}{{3, "<nil>"}, {2, "turned away"}, {3, "turned away"}, {4, "<nil>"}} {
			hi := helloOf("Bob")
			hi.epoch = c.epoch
			v, err := visit(l.dial(ann), l.key, key, hi)
			if fmt.Sprint(err) != c.want {
				t.Errorf("with epoch %d: %v, want %s", c.epoch, err, c.want)
			}
			if err == nil {
				v.listens(nil)
			}
		}
		ann.node.mu.Lock()
		defer ann.node.mu.Unlock()
		if len(ann.logged) > 0 {
			t.Errorf("duplicates are logged as offences: %v", ann.logged)
		}
	})
}

// TestEpochCountsWhatFailed: the HELLOs that Ann says to a lower node, one after the
// other, with what went wrong before each.
func TestEpochCountsWhatFailed(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		key := idBeside(ann.id, true)
		ann.node.mu.Lock()
		ann.contactLocked(idOf(key)).heardAt = time.Now() // or a tick may forget it, as one that it never met
		ann.node.mu.Unlock()
		hears := func(what string, want uint32) *visitor {
			t.Helper()
			v := noError(greet(l.dial(ann), l.key, key))
			must(t, v.waitsFor(func(typ byte, body []byte) bool {
				if x, _ := parseHello(body); typ == frameHello && x.epoch != want {
					t.Errorf("%s: Ann says HELLO with epoch %d, want %d", what, x.epoch, want)
				}
				return typ == frameHello
			}))
			return v
		}
		meets := func(what string, want uint32) *visitor {
			t.Helper()
			v := hears(what, want)
			v.says(appendHello(nil, helloOf("Bob")))
			v.listens(nil)
			after(10 * time.Millisecond)
			return v
		}
		hears("at first", 0).raw.Close()
		after(10 * time.Millisecond)
		meets("after one that was not answered", 1).raw.Close()
		after(10 * time.Millisecond)
		v := meets("after a connection that ended", 2)
		after(suspicion + 2*tickEvery)
		meets("after one that is silent", 3)
		v.raw.Close()
	})
}

// ---- what the user named

// TestNamedNodeMayDialUs: Ann can't dial Bob, whom her table and -peer name, but he
// dials her.
func TestNamedNodeMayDialUs(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann", deaf()), l.enter("Bob", deaf())
		ann.bar(bob)
		for from, to := range map[*guest]*guest{ann: bob, bob: ann} {
			from.node.mu.Lock()
			from.targets = []*target{{route: route{addr: to.addr}}, {route: route{addr: to.addr}, alias: "Table"}}
			from.node.mu.Unlock()
		}
		after(time.Minute)
		ann.wantNoWarning(t)
		if m := ann.members(); len(m) != 1 || m[0].id != bob.id || !slices.Equal(m[0].aliases, []string{"Table"}) {
			t.Errorf("members of Ann: %+v, want Bob by both names", m)
		}
	})
}

// ---- what the end of a connection means

// TestMachineThatIsSwitchedOffAndOnIsLostAtOnce: nothing tells Ann that Bob is gone
// but the new node at its address.
func TestMachineThatIsSwitchedOffAndOnIsLostAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(10 * time.Second)
		bob.says("the last thing that Ann hears")
		synctest.Wait()
		l.stall(ann, bob, true)
		bob.mu.Lock()
		bob.closed = true
		bob.mu.Unlock()
		l.mu.Lock()
		addr := bob.addr
		bob.addr = netip.AddrPort{}
		l.mu.Unlock()
		l.enter("Rob", low(), func(g *guest, _ *options) { g.addr = addr })
		after(time.Second)
		ann.wantLines(1, `^\* Rob@10.0.0.2\?? joined$`)
		ann.wantLines(1, `^\* Bob@10.0.0.2 lost$`)
	})
}

// TestWhoGivesWayIsNotLost: Ann has too many connections, so that with Bob ends.
func TestWhoGivesWayIsNotLost(t *testing.T) {
	for _, lower := range []bool{true, false} {
		inBubble(t, func(t *testing.T, l *lab) {
			bob := l.enter("Bob")
			ann := l.enter("Ann", func(_ *guest, o *options) { o.low = lower })
			after(20 * time.Second)
			ann.node.mu.Lock()
			ann.conns[bob.id].endLocked(byeFull)
			ann.node.mu.Unlock()
			after(retryMost - time.Second)
			if n, m := ann.peersNow(), bob.peersNow(); n+m > 0 {
				t.Errorf("%d and %d connections, want that it is dialed after %v", n, m, retryMost)
			}
			after(3 * time.Second)
			if n, m := ann.peersNow(), bob.peersNow(); n != 1 || m != 1 {
				t.Errorf("%d and %d connections, want that it was dialed", n, m)
			}
			ann.wantLines(0, `lost|back`)
			bob.wantLines(0, `lost|back`)
		})
	}
}

// TestWhoHasLeftIsNotDialed: Yan's last post has come, and then the connection ends
// without BYE.
func TestWhoHasLeftIsNotDialed(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		yan := newScribe(7, "Yan")
		run := []post{yan.writes(kindJoin, time.Now().UnixMicro(), "Yan"), yan.writes(kindLeave, time.Now().UnixMicro()+1, "")}
		v := l.visitor(ann, yan.key, "Yan", nil)
		v.says(hasNothing(), framed(framePosts, runOf(yan.id, run)))
		synctest.Wait()
		v.raw.Close()
		synctest.Wait()
		ann.node.mu.Lock()
		defer ann.node.mu.Unlock()
		if ct := ann.contacts[yan.id]; ct.tie != away || ct.addr.IsValid() {
			t.Errorf("Yan, who has left, is %v, and can be dialed at %v", ct.tie, ct.addr)
		}
		if ct := ann.contacts[yan.id]; ct.heardAt != time.Now() {
			t.Errorf("Yan, who was connected just now, was heard of at %v", ct.heardAt)
		}
		if len(ann.sources) > 0 {
			t.Errorf("%d feeds come from somebody who is not here", len(ann.sources))
		}
	})
}

// TestRestIsBounded: what is remembered of connections at rest, which may be many
// subscriptions, counts for their host.
func TestRestIsBounded(t *testing.T) {
	for _, c := range []struct {
		hosts, each int  // with which connections rest already
		want        bool // the next rests
	}{{1, maxRestPerAddr - 1, true}, {1, maxRestPerAddr, false}, {20, maxConns/20 - 1, true}, {20, maxConns / 20, false}} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			v := l.visitor(ann, newKey(), "Mallory", nil)
			v.says(hasNothing())
			synctest.Wait()
			n := ann.node
			n.mu.Lock()
			defer n.mu.Unlock()
			for i := range c.hosts * c.each {
				o := &conn{}
				o.peer, o.addr = nodeID{byte(i >> 8), byte(i)}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(9 + i/c.each)}), 7700)
				n.rested[o.peer] = o
			}
			mallory := n.conns[v.id]
			n.mu.Unlock()
			n.unregister(mallory, byeError(byeIdle))
			n.mu.Lock()
			if got := n.rested[v.id] != nil; got != c.want {
				t.Errorf("with %d at rest with each of %d hosts, the next rests: %v, want %v", c.each, c.hosts, got, c.want)
			}
			clear(n.rested)
		})
	}
}

// TestWhoConnectsWhileWeLeaveHoldsUpNothing: Ann's connection with Bob rests, and is
// opened to tell him that she leaves.
func TestWhoConnectsWhileWeLeaveHoldsUpNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		bob := l.enter("Bob", deaf())
		ann := l.enter("Ann", deaf(), listed("Bobby", bob, 2*time.Second))
		after(10 * time.Second)
		began := time.Now()
		ann.leaves()
		if took := time.Since(began); took >= leaveTimeout {
			t.Errorf("leaving takes %v", took)
		}
		after(time.Second)
		bob.wantLines(1, ` left$`)
	})
}

// TestWhoHasLeftConnectsWithNobody: a handshake that ends just then would show it to a
// newcomer, as one who comes and is lost.
func TestWhoHasLeftConnectsWithNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann")
		ann.leaves()
		peer := &conn{n: ann.node, wake: make(chan struct{}, 1), transport: transport{peer: nodeID{1}, addr: netip.MustParseAddrPort("10.9.0.1:7700")}}
		if err := ann.register(peer, hello{port: 7700, name: "Cid"}); err == nil {
			t.Error("Ann connects after she has left")
		}
	})
}

// TestReturnOfAThirdIsToldAtOnce: Ann hears of Cid through Bob alone, and nobody says
// anything.
func TestReturnOfAThirdIsToldAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		cid, bob, ann := l.behind()
		l.setApart(bob, cid, true)
		after(20 * time.Second)
		ann.wantLines(1, `^\* Cid@10.0.0.1\? lost$`)
		l.setApart(bob, cid, false)
		after(5 * time.Second)
		ann.wantLines(1, `^\* Cid@10.0.0.1\? is back$`)
	})
}

// ---- silence

// TestAnswerThatIsLateIsWaitedFor: Bob's beacons are heard and his host answers, but
// what is sent comes late, on the fresh connection as well.
func TestAnswerThatIsLateIsWaitedFor(t *testing.T) {
	for late, lost := range map[time.Duration]int{silence + time.Second: 0, silence + 4*time.Second: 1} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann"), l.enter("Bob")
			after(10 * time.Second)
			ann.says("the last thing that Bob hears")
			bob.says("the last thing that Ann hears")
			synctest.Wait()
			for _, stalled := range []bool{true, false} {
				l.mu.Lock()
				l.freshCut = stalled
				l.mu.Unlock()
				l.stall(ann, bob, stalled)
				after(late)
			}
			for _, g := range []*guest{ann, bob} {
				if n := count(g.screen(), ` lost$`); n != lost {
					t.Errorf("nothing came for %v, and %s shows the other %d times as lost, want %d", late, g.name, n, lost)
				}
			}
		})
	}
}

// TestWhoWasStoppedJudgesNobody: for ten seconds the program got no time, and then
// finds that nothing was read.
func TestWhoWasStoppedJudgesNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(20 * time.Second)
		n := ann.node
		n.mu.Lock()
		c := n.conns[bob.id]
		n.pulse.tickAt = n.pulse.tickAt.Add(-10 * time.Second)
		c.raw.reading.Store(int64(10*time.Second) - 1)
		n.mu.Unlock()
		n.tick()
		n.mu.Lock()
		defer n.mu.Unlock()
		if got := n.contacts[bob.id].tie; got != up || c.bye != 0 {
			t.Errorf("Bob is %v, and the connection about to end for %d, want up, and 0", got, c.bye)
		}
	})
}

// TestJumpOfOurClockIsNoneOfAPeers: what Bob's clock is ahead of Ann's is counted
// anew. The time that has really passed is no part of what a clock shows.
func TestJumpOfOurClockIsNoneOfAPeers(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(time.Second)
		ann.ahead.Store(int64(2 * clockLimit))
		after(time.Second)
		ann.node.mu.Lock()
		defer ann.node.mu.Unlock()
		if got := ann.conns[bob.id].ahead; got != -clockLimit {
			t.Errorf("Bob's clock is ahead by %v, want %v", got, -clockLimit)
		}
	})
	n := newNode(newKey(), benchHistory(), newRoomKey(""), "Ann", 7700, 7700)
	n.watchClockLocked(time.Now())
	if shown := n.pulse.shown; shown != shown.Round(0) {
		t.Errorf("the clock is read as %v", shown)
	}
}

// TestTickOfAConnection: a heartbeat is due at the tick that is nearest to its time,
// and a connection rests only when its peer has all that we said.
func TestTickOfAConnection(t *testing.T) {
	for _, c := range []struct {
		name        string
		wrote, chat time.Duration // ago
		lacks       bool          // Bob has not acknowledged what Ann said last
		ending      byte          // why it is about to end already
		beat        bool
		bye         byte
	}{
		{"nothing is due", heartbeat, heartbeat, false, 0, false, 0},
		{"a heartbeat", slowHeartbeat - tickEvery/3, heartbeat, false, 0, true, 0},
		{"it rests", heartbeat, time.Hour, false, 0, false, byeIdle},
		{"it has something to acknowledge", heartbeat, time.Hour, true, 0, false, 0},
		{"we leave", heartbeat, time.Hour, false, byeLeaving, false, byeLeaving},
	} {
		inBubble(t, func(t *testing.T, l *lab) {
			bob := l.enter("Bob", deaf())
			ann := l.enter("Ann", deaf(), listed("Table", bob, time.Minute))
			after(time.Second)
			if c.lacks {
				l.stall(ann, bob, true)
				ann.says("hi")
				synctest.Wait()
			}
			n, now := ann.node, time.Now()
			n.mu.Lock()
			defer n.mu.Unlock()
			o := n.conns[bob.id]
			n.contacts[bob.id].namedAt = now
			o.wroteAt, o.chatAt, o.bye = now.Add(-c.wrote), now.Add(-c.chat), c.ending
			if o.tickLocked(now); o.telling.beat != c.beat || o.bye != c.bye {
				t.Errorf("%s: a heartbeat is sent: %v, and the connection ends for %d, want %v and %d", c.name, o.telling.beat, o.bye, c.beat, c.bye)
			}
		})
	}
}

// TestSuspicionEnds: neither of the two can dial the other, and what they say comes
// late.
func TestSuspicionEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(10 * time.Second)
		ann.bar(bob)
		bob.bar(ann)
		ann.says("the last thing that Bob hears")
		bob.says("the last thing that Ann hears")
		synctest.Wait()
		for _, want := range []tie{suspect, up} {
			l.stall(ann, bob, want == suspect)
			after(suspicion + 4*tickEvery)
			for g, o := range map[*guest]*guest{ann: bob, bob: ann} {
				g.node.mu.Lock()
				if got := g.contacts[o.id].tie; got != want {
					t.Errorf("%s is %v for %s, want %v", o.name, got, g.name, want)
				}
				g.node.mu.Unlock()
			}
		}
	})
}

// TestConnectionFromALostAddressIsMadeAnew: but every host has the whole loopback
// network, whatever its interfaces say.
func TestConnectionFromALostAddressIsMadeAnew(t *testing.T) {
	for addr, anew := range map[string]bool{"10.0.0.1:7700": true, "127.0.0.7:7700": false} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann, bob := l.enter("Ann", func(g *guest, _ *options) { g.addr = netip.MustParseAddrPort(addr) }), l.enter("Bob")
			after(10 * time.Second)
			since := func() time.Time {
				ann.node.mu.Lock()
				defer ann.node.mu.Unlock()
				return ann.conns[bob.id].since
			}
			before := since()
			ann.checkAddrs([]netip.Addr{ann.addr.Addr()}, netip.Addr{})
			after(time.Second)
			if since() != before {
				t.Errorf("%s: the connection ended though its address is there", addr)
			}
			ann.checkAddrs([]netip.Addr{bob.addr.Addr()}, netip.Addr{})
			after(time.Second)
			if got := since() != before; got != anew {
				t.Errorf("%s: when its address is gone, the connection is made anew: %v, want %v", addr, got, anew)
			}
		})
	}
}

// TestWhoRestsIsRousedForWhatItDoesNotHear: Ann's connection with Bob rests. That Dot
// leaves he hears from her. Eve, who is behind Dot, he hears through Ann alone.
func TestWhoRestsIsRousedForWhatItDoesNotHear(t *testing.T) {
	for _, behind := range []bool{false, true} {
		inBubble(t, func(t *testing.T, l *lab) {
			bob := l.enter("Bob", deaf())
			ann := l.enter("Ann", deaf(), listed("Table", bob, 2*time.Second))
			opts := []option{deaf(), told(ann), told(bob)}
			if behind {
				opts = []option{deaf(), told(ann), apartFrom(bob)}
			}
			dot := l.enter("Dot", opts...)
			after(15 * time.Second)
			if ann.peersNow() != 1 {
				t.Fatalf("Ann has %d connections, want that with Dot alone", ann.peersNow())
			}
			if !behind {
				dot.leaves()
				after(time.Second)
				if ann.peersNow() != 0 {
					t.Error("the connection that rests is opened")
				}
				bob.wantLines(1, `Dot@10.0.0.3 left$`)
				return
			}
			eve := l.enter("Eve", deaf(), told(dot), apartFrom(ann, bob))
			after(time.Second)
			eve.says("hi")
			after(3 * time.Second)
			bob.wantLines(1, `^Eve@10.0.0.4\?: hi$`)
		})
	}
}

// TestWhoCameIsToldAtOnce: Bob, with whom nothing else passes, hears of Cid through
// Ann.
func TestWhoCameIsToldAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(10*time.Second + tickEvery)
		l.enter("Cid", deaf(), told(ann), apartFrom(bob))
		after(time.Second)
		bob.wantLines(1, `^\* Cid@10.0.0.3\? joined$`)
	})
}

// TestPathThatDropsLargePacketsIsTold: twice in a row nothing arrives of what Ann said,
// and the peer connects anew, or gives up.
func TestPathThatDropsLargePacketsIsTold(t *testing.T) {
	for ends, visits := range map[bool]uint32{true: 2, false: 3} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			ann.says("%s", strings.Repeat("x", 5000))
			key := idBeside(ann.id, false)
			for epoch := range visits {
				ann.wantNoWarning(t)
				hi := helloOf("Mallory")
				hi.epoch = epoch
				v := l.visitorWith(ann, key, hi, nil)
				v.says(appendGot(nil, 0), hasNothing())
				after(slowHeartbeat + time.Second)
				if ends {
					v.says(appendBye(nil, byeSilent))
					after(time.Second)
				}
			}
			ann.wantWarned(`^two connections in a row with Mallory@10.9.9.9 have died while \d+ bytes were under way`)
		})
	}
}

// ---- who waits

// TestNobodyIsWaitedForWhoIsLongGone: what Ann says when Bob has gone counts as
// delivered only when nobody has come for a while.
func TestNobodyIsWaitedForWhoIsLongGone(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann", deaf()), l.enter("Bob", deaf())
		ann.node.mu.Lock()
		ann.patience = 3 * time.Second
		ann.targets = []*target{{route: route{addr: bob.addr}}}
		ann.node.mu.Unlock()
		after(10 * time.Second)
		bob.crash()
		after(time.Second)
		ann.says("are you there?")
		for _, want := range []uint64{1, 2} {
			ann.node.mu.Lock()
			if got := ann.deliveredLocked(time.Now()); got != want {
				t.Errorf("%d posts are delivered, want %d", got, want)
			}
			ann.node.mu.Unlock()
			after(ann.patience)
		}
	})
}

// TestQuietPeerIsWaitedFor: what Ann says after a long silence isn't delivered before
// Bob has it, as long as he may still be there.
func TestQuietPeerIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann, bob := l.enter("Ann"), l.enter("Bob")
		after(20 * time.Second)
		l.stall(ann, bob, true)
		ann.says("are you there?")
		synctest.Wait()
		ann.node.mu.Lock()
		defer ann.node.mu.Unlock()
		if got := ann.deliveredLocked(time.Now()); got != 1 {
			t.Errorf("%d posts are delivered, want 1", got)
		}
	})
}

// ---- bounds

// TestWhatHappenedIsForgotten: a host is not to blame for ever, and an offence is
// logged again when it goes on.
func TestWhatHappenedIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		n := l.enter("Ann", deaf()).node
		n.mu.Lock()
		n.gate.hosts = map[netip.Addr]hostDials{netip.AddrFrom4([4]byte{10, 9, 9, 9}): {blame: 10}}
		n.logged["offence"] = 1
		n.mu.Unlock()
		after(time.Minute + tickEvery)
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.gate.hosts)+len(n.logged) > 0 {
			t.Errorf("a minute later there is still blame: %v, and remembered: %v", n.gate.hosts, n.logged)
		}
	})
}

// TestFirstTickForgetsNothing: an offence that comes before it is logged once, like all.
func TestFirstTickForgetsNothing(t *testing.T) {
	n, lines := newStill(), 0
	n.logf = func(string, ...any) { lines++ }
	n.logOnce("beacon 10.9.9.9", "garbage")
	n.tick()
	if n.logOnce("beacon 10.9.9.9", "garbage"); lines != 1 {
		t.Errorf("it is logged %d times", lines)
	}
}

// TestTalkAheadOfHistoryIsBounded: a peer on a path that takes nothing gets what is
// said ahead of the history, but little more than the window.
func TestTalkAheadOfHistoryIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		for range 50 {
			ann.says("%s", strings.Repeat("h", 1000))
		}
		came, early := 0, 0
		v := l.visitor(ann, newKey(), "Mallory", func(_ *visitor, typ byte, body []byte) {
			if typ == framePosts {
				came += len(body)
				early += strings.Count(string(body), "said since")
			}
		})
		v.says(appendGot(nil, 0), hasNothing())
		after(time.Second)
		for i := range 50 {
			ann.says("%d said since %s", i, strings.Repeat("x", 500))
			after(100 * time.Millisecond)
		}
		if most := firstWindow + 2*firstWindow/2; came > most || early < 2 {
			t.Errorf("%d bytes came, want %d at most; %d of the posts were said since", came, most, early)
		}
	})
}

// ---- what a peer sends

// hasHeard is meets, of a peer that may be told and asked.
func (n *node) hasHeard(s *scribe) *conn {
	c := n.meets(s, s.addr, true)
	c.telling.authors, c.wants, c.subs, c.stirred = map[nodeID]bool{}, map[nodeID]want{}, map[nodeID]*sub{}, map[nodeID]bool{}
	return c
}

// TestPiecesCountIfTheyWereWanted: those of what its author says, or of what was asked
// for. The peer has to pay for others when all are there.
func TestPiecesCountIfTheyWereWanted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ own, asked bool }{{own: true}, {asked: true}, {}} {
		n, yan, author := newStill(), newScribe(1, "Yan"), newScribe(1, "Yan")
		if !c.own {
			author = newScribe(2, "Xen")
		}
		o, body := n.hasHeard(yan), runOf(author.id, author.chat(5))
		s := new(source)
		if c.asked {
			s.from, n.sources[author.id] = o, s
		}
		piece, rest := body[:400], body[400:]
		o.debt = workOf(framePart, len(piece))
		must(t, o.handle(framePart, appendPart(nil, piece, true)[5:]))
		counted := 0
		if c.own || c.asked {
			counted = len(piece)
		}
		if wanted := counted > 0; o.served.bytes != int64(counted) || n.gather.bytes != counted || o.debt == 0 != wanted || s.since.IsZero() == c.asked {
			t.Errorf("%+v: a piece of %d bytes counts as %d and %d, and leaves a debt of %v", c, len(piece), o.served.bytes, n.gather.bytes, o.debt)
		}
		must(t, o.handle(framePart, appendPart(nil, rest, false)[5:]))
		if counted > 0 {
			counted = len(body)
		}
		if o.served.bytes != int64(counted) || counted == 0 && o.debt != workOf(framePosts, len(body)) {
			t.Errorf("%+v: a run of %d bytes counts as %d, and leaves a debt of %v", c, len(body), o.served.bytes, o.debt)
		}
		if o.loading != 0 || o.part != nil {
			t.Errorf("%+v: %d bytes are held, and %d counted, when all have come", c, len(o.part), o.loading)
		}
	}
	c := newStill().hasHeard(newScribe(1, "Yan"))
	c.part = make([]byte, maxFrame)
	if c.handle(framePart, appendPart(nil, []byte("x"), true)[5:]) == nil {
		t.Error("pieces may be more than a frame")
	}
}

// TestWhatComesOfPosts: Yan says nine, of which Ann has some. They come from him, or
// from Bob.
func TestWhatComesOfPosts(t *testing.T) {
	t.Parallel()
	const entry = workPerEntry + workPerClaim
	for _, c := range []struct {
		name    string
		relayed bool // by Bob
		had     int  // posts
		from    int  // the number of the first of those that come
		claimed span // what who sends them has, by his vector
		asked   bool
		over    bool // asked to leave out what is missing
		parted  bool // he was told that we leave

		last         uint64 // what Ann has then
		lacks, acked bool   // she looks for more; she acknowledges them
		owes         time.Duration
		fails        bool
	}{
		{name: "the next", had: 2, from: 3, last: 9, acked: true},
		{name: "had already", had: 9, from: 3, last: 9, acked: true, owes: time.Hour},
		{name: "said since we met", had: 2, from: 5, claimed: span{1, 4, 1}, last: 2, lacks: true},
		{name: "behind a gap", had: 2, from: 5, claimed: span{5, 9, 1}, last: 2, lacks: true, owes: time.Hour},
		{name: "behind a gap that is left out", had: 2, from: 5, claimed: span{5, 9, 1}, asked: true, over: true, last: 9, acked: true},
		{name: "one is left out", had: 2, from: 5, claimed: span{1, 9, 1}, last: 2, owes: time.Hour, fails: true},
		{name: "behind our goodbye", had: 2, from: 3, parted: true, last: 2, owes: time.Hour},
		{name: "relayed", relayed: true, had: 2, from: 3, asked: true, last: 9, owes: -entry},
		{name: "relayed unasked", relayed: true, had: 2, from: 3, last: 2, owes: time.Hour},
		{name: "relayed behind a gap", relayed: true, had: 2, from: 5, asked: true, last: 2, lacks: true, owes: time.Hour},
		{name: "relayed behind a gap that is left out", relayed: true, had: 2, from: 5, asked: true, over: true, last: 9, owes: -entry},
	} {
		n, yan, by := newStill(), newScribe(1, "Yan"), newScribe(1, "Yan")
		if c.relayed {
			by = newScribe(2, "Bob")
		}
		run := yan.chat(9)
		noError(n.history.add(yan.id, run[:c.had], true, false))
		o := n.hasHeard(by)
		if c.claimed.last > 0 {
			o.theirs[yan.id], o.vector = claim{span: c.claimed}, c.claimed.last
		}
		s := &source{from: o, over: c.over}
		if c.asked {
			n.sources[yan.id] = s
		}
		o.debt, o.parted = time.Hour, c.parted
		err := o.handle(framePosts, runOf(yan.id, run[c.from-1:]))
		_, lacks := n.lacking[yan.id]
		if last := n.history.about(yan.id).last; last != c.last || lacks != c.lacks || err != nil != c.fails {
			t.Errorf("%s: Ann has %d posts, and looks for more: %v; the connection ends for %v", c.name, last, lacks, err)
		}
		if o.telling.authors[yan.id] != c.acked || o.debt != c.owes {
			t.Errorf("%s: they are acknowledged: %v, and the sender owes %v", c.name, o.telling.authors[yan.id], o.debt)
		}
		if taken := c.last > uint64(c.had); c.asked && taken && (s.since.IsZero() || s.over) {
			t.Errorf("%s: the source last brought something at %v, and shall leave out more: %v", c.name, s.since, s.over)
		} else if mine := o.theirs[yan.id]; taken && !c.relayed && mine.span != (span{max(1, c.claimed.first), 9, yan.last.link.mark()}) {
			t.Errorf("%s: Yan counts as one who has %+v", c.name, mine)
		} else if taken && c.relayed && mine != (claim{}) {
			t.Errorf("%s: Bob counts as one who has %+v", c.name, mine)
		}
	}
}

// TestTakenPostsAreNobodysClaim: Bob said that he has posts of Yan, which Yan sends then.
func TestTakenPostsAreNobodysClaim(t *testing.T) {
	t.Parallel()
	n, yan, bob := newStill(), newScribe(1, "Yan"), newScribe(2, "Bob")
	run := yan.chat(3)
	o, b := n.hasHeard(yan), n.hasHeard(bob)
	b.theirs[yan.id] = claim{span: span{1, 3, 1}}
	must(t, o.handle(framePosts, runOf(yan.id, run)))
	if len(b.theirs) > 0 {
		t.Errorf("Ann remembers of Bob %v", b.theirs)
	}
}

// TestWhatAHaveForgives: that it acknowledges something of ours, and little else.
func TestWhatAHaveForgives(t *testing.T) {
	t.Parallel()
	yan, xen := newScribe(1, "Yan"), newScribe(2, "Xen")
	for _, c := range []struct {
		name  string
		ids   []nodeID
		taken uint64
		free  bool
	}{
		{"nothing", nil, 0, false},
		{"a post", []nodeID{someone.id}, 0, true},
		{"a direct message", nil, 1, true},
		{"a direct message that was not sent", nil, 0, false},
		{"a post among others", []nodeID{someone.id, xen.id}, 0, false},
		{"a claim", []nodeID{xen.id}, 0, false},
	} {
		n := newStill()
		o := n.hasHeard(yan)
		n.contacts[yan.id].out = []*outgoing{{direct: direct{number: 1}}}
		o.debt = time.Second
		x := frameList{taken: c.taken, ids: c.ids, spans: []span{{1, 1, 1}, {1, 1, 1}}, addrs: make([]netip.AddrPort, 2)}
		if must(t, o.handle(frameHave, x.have())); o.debt == 0 != c.free {
			t.Errorf("%s: who acknowledges it owes %v", c.name, o.debt)
		}
	}
}

// TestWhenTheVectorGoesOn: the peer asks for more of it, or for all of it anew, but not
// while a part of it is still to be sent.
func TestWhenTheVectorGoesOn(t *testing.T) {
	t.Parallel()
	last := nodeID{1}
	for _, c := range []struct {
		name       string
		asked      bool
		flag       byte
		after      nodeID
		goOn, anew bool
	}{
		{name: "a part was sent", after: last, goOn: true},
		{name: "all was sent", goOn: true, anew: true},
		{name: "a part is about to be laid out", asked: true},
		{name: "a part is being sent", flag: havePart, after: last},
		{name: "the last part is being sent", flag: haveComplete},
	} {
		n := newStill()
		o := n.hasHeard(newScribe(1, "Yan"))
		o.telling.asked, o.telling.flag, o.telling.after = c.asked, c.flag, c.after
		must(t, o.handle(frameHave, frameList{flags: haveGoOn}.have()))
		if goOn, anew := o.telling.asked && !c.asked, o.telling.authors[n.id]; goOn != c.goOn || anew != c.anew {
			t.Errorf("%s: the vector goes on: %v, and begins anew: %v", c.name, goOn, anew)
		}
		if woken := len(o.wake) > 0; c.goOn && !woken {
			t.Errorf("%s: the writer is not woken", c.name)
		}
	}
}

// TestWhatComesOfAClaim: Bob says what he has of Xen, of whom Ann has two posts.
func TestWhatComesOfAClaim(t *testing.T) {
	t.Parallel()
	at, moved := netip.MustParseAddrPort("10.0.0.9:7700"), netip.MustParseAddrPort("10.0.0.44:7700")
	many := map[nodeID]claim{}
	for i := range maxClaims {
		many[nodeNumber(i)] = claim{}
	}
	more, same, less := span{1, 3, 3}, span{1, 2, 2}, span{1, 1, 1}
	for _, c := range []struct {
		name    string
		gone    bool  // Xen was lost
		reached bool  // Ann is connected with him
		had     claim // what Bob said before
		alone   bool  // nobody else claims anything
		crowded int   // so many other authors Bob claimed, and Eve as many as all peers may
		s       span
		at      netip.AddrPort // where Bob is connected with Xen

		kept, lacks, told, dialed, stray, dropped bool
	}{
		{name: "he has more", s: more, kept: true, lacks: true},
		{name: "he has as much, and may know what became of Xen", s: same, kept: true, lacks: true},
		{name: "he has as much, and Xen is gone", s: same, gone: true},
		{name: "he has less, and Xen is gone", s: less, gone: true},
		{name: "he has as much, and is connected with Xen", s: same, at: at, kept: true, lacks: true, dialed: true},
		{name: "the same again, as Xen is here", s: same, at: at, had: claim{span: same, addr: at}, kept: true, lacks: true},
		{name: "the same again, as Xen is gone", s: same, at: at, gone: true, had: claim{span: same, addr: at}, kept: true},
		{name: "Xen is at another place", s: same, at: moved, gone: true, had: claim{span: same, addr: at}, kept: true, lacks: true, dialed: true},
		{name: "so are we", s: same, at: at, reached: true, kept: true},
		{name: "so are we, and he has more", s: more, at: at, reached: true, kept: true, lacks: true},
		{name: "no longer connected, and has as much", s: same, had: claim{span: same, addr: at}, kept: true, lacks: true, stray: true},
		{name: "no longer connected, and has less", s: less, had: claim{span: less, addr: at}, kept: true, lacks: true, stray: true, told: true},
		{name: "no longer connected, and has more", s: more, had: claim{span: more, addr: at}, kept: true, lacks: true, stray: true},
		{name: "many claims", s: more, crowded: mostClaims - 1, alone: true, kept: true, lacks: true},
		{name: "too many claims of his own", s: more, crowded: mostClaims, alone: true, dropped: true},
		{name: "too many claims", s: more, crowded: mostClaims, dropped: true},
		{name: "too many claims, and one of before", s: more, had: claim{span: less}, crowded: mostClaims, kept: true, lacks: true},
		{name: "few claims, while others have many", s: more, crowded: fewClaims - 1, kept: true, lacks: true},
		{name: "more than a few, while others have many", s: more, crowded: fewClaims, dropped: true},
	} {
		n, xen, bob, eve := newStill(), newScribe(1, "Xen"), newScribe(2, "Bob"), newScribe(3, "Eve")
		id := n.holds(xen)
		if c.gone {
			n.history.note(id, post{kind: kindLost})
		}
		if c.reached {
			n.meets(xen, at, true)
		}
		o, e := n.hasHeard(bob), n.hasHeard(eve)
		c.had.stalls, c.had.since = 3, 1
		if c.had.last > 0 {
			o.theirs[id] = c.had
		}
		for i := range c.crowded {
			o.theirs[nodeNumber(i)] = claim{}
		}
		if c.crowded > 0 {
			for i := range len(n.conns) { // as many don't count
				o.theirs[nodeNumber(1_000_000+i)] = claim{}
			}
			if !c.alone {
				e.theirs = many
			}
		}
		c.s.mark = n.history.about(id).link.mark()
		n.hasLocked(o, id, c.s, c.at)
		got, kept := o.theirs[id]
		_, lacks := n.lacking[id]
		_, stray := n.strays[id]
		if kept != c.kept || lacks != c.lacks || o.dropped != c.dropped || stray != c.stray {
			t.Errorf("%s: remembered: %v, looked for: %v, dropped: %v, a stray: %v", c.name, kept, lacks, o.dropped, stray)
		}
		if told := o.telling.authors[id]; told != c.told {
			t.Errorf("%s: Bob hears what Ann has: %v", c.name, told)
		}
		if dialed := n.contacts[id] != nil && n.contacts[id].addr == c.at && c.at.IsValid(); dialed != c.dialed {
			t.Errorf("%s: he is dialed there: %v", c.name, dialed)
		}
		if work := o.debt == workPerClaim; work != c.lacks {
			t.Errorf("%s: Bob owes %v", c.name, o.debt)
		}
		if kept && c.had.last > 0 && got.stalls != 3 {
			t.Errorf("%s: %d stalls count, want 3", c.name, got.stalls)
		}
	}
}

// TestWhereAClaimIsWithinALink: Bob, on a link, knows its addresses without our zone.
func TestWhereAClaimIsWithinALink(t *testing.T) {
	t.Parallel()
	n, bob, xen := newStill(), newScribe(2, "Bob"), newScribe(1, "Xen")
	bob.addr = netip.MustParseAddrPort("[fe80::2%eth0]:7700")
	o := n.hasHeard(bob)
	n.hasLocked(o, xen.id, span{1, 1, 1}, netip.MustParseAddrPort("[fe80::1]:7700"))
	if got := o.theirs[xen.id].addr.String(); got != "[fe80::1%eth0]:7700" {
		t.Errorf("Xen is at %s", got)
	}
}

// TestWhatAnAcknowledgementTells: Ann joined and said two lines, of which Bob now has some.
func TestWhatAnAcknowledgementTells(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		best, last uint64 // what anybody had, and what Bob has now
		news, here bool   // it is more than he had; somebody takes what we say
	}{{1, 1, true, true}, {1, 3, true, true}, {3, 2, true, false}, {3, 0, false, false}} {
		n := newStill()
		n.say(kindLines, []byte("one"))
		n.say(kindLines, []byte("two"))
		o := n.hasHeard(newScribe(2, "Bob"))
		changed := n.changed
		n.bestAck = c.best
		n.hasLocked(o, n.id, span{1, c.last, 1}, netip.AddrPort{})
		if here, acked := !n.takenAt.IsZero(), !o.ackedAt.IsZero(); here != c.here || acked != c.news || n.bestAck != max(c.best, c.last) {
			t.Errorf("%+v: somebody takes it: %v, it is an acknowledgement: %v, the best has %d", c, here, acked, n.bestAck)
		}
		if got := n.history.delivered; c.news && got != c.last {
			t.Errorf("%+v: %d posts count as delivered", c, got)
		}
		if c.news != (changed != n.changed) {
			t.Errorf("%+v: who waits looks again: %v", c, !c.news)
		}
	}
}

// TestWhenAPeerIsAskedToGoOn with its vector: there is room for more of it, or there
// was none for something in it, but is now.
func TestWhenAPeerIsAskedToGoOn(t *testing.T) {
	t.Parallel()
	full := map[nodeID]claim{}
	for i := range maxClaims {
		full[nodeNumber(i)] = claim{}
	}
	for _, c := range []struct {
		name                   string
		more, dropped, toldAll bool
		claims                 int // of the peer
		crowded                bool
		asked, anew            bool
	}{
		{name: "a part is in", more: true, asked: true},
		{name: "a part is in, but nothing of it is needed, and others fill all", more: true, crowded: true, asked: true},
		{name: "a part is in, and others fill all", more: true, claims: 10, crowded: true},
		{name: "a part is in, and much of it is still needed", more: true, claims: mostClaims - vectorPart + 3},
		{name: "all is in", toldAll: true},
		{name: "all is in but what there was no room for", toldAll: true, dropped: true, asked: true, anew: true},
		{name: "the next part is on its way", dropped: true},
		{name: "a part is in, and there was no room for some", more: true, dropped: true, asked: true},
	} {
		n := newStill()
		o, e := n.hasHeard(newScribe(1, "Bob")), n.hasHeard(newScribe(2, "Eve"))
		o.more, o.dropped, o.toldAll = c.more, c.dropped, c.toldAll
		for i := range c.claims {
			o.theirs[nodeNumber(i)] = claim{}
		}
		if c.crowded {
			e.theirs = full
		}
		o.askOnLocked()
		if asked, dropped := o.telling.goOn, c.dropped && !c.anew; asked != c.asked || o.dropped != dropped || asked && (o.more || o.toldAll) {
			t.Errorf("%s: it is asked: %v, and will be to begin anew: %v", c.name, asked, o.dropped)
		}
	}
}

// TestWhatComesOfAVector: Yan says first what he has of his own feed, and of Ann's.
func TestWhatComesOfAVector(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("10.0.0.9:7700")
	for _, c := range []struct {
		name   string
		mine   uint64 // what he has of Ann's
		yans   span
		later  bool // another part came before
		sends  uint64
		early  uint64
		source bool // of his own feed, unasked
		lacks  bool // she looks for more, though she gave up while his vector was slow to come
	}{
		{name: "nothing", sends: 1, early: 1, source: true},
		{name: "some of Ann's", mine: 1, sends: 2, source: true},
		{name: "as much of his own as Ann", mine: 1, yans: span{1, 2, 1}, sends: 2, source: true},
		{name: "more of his own", mine: 1, yans: span{1, 9, 1}, sends: 2, source: true, lacks: true},
		{name: "more of his own, but not what Ann lacks next", mine: 1, yans: span{5, 9, 1}, sends: 2, lacks: true},
		{name: "a later part", mine: 1, yans: span{1, 9, 1}, later: true},
	} {
		n, yan := newStill(), newScribe(1, "Yan")
		n.say(kindLines, []byte("said since he came"))
		o := n.hasHeard(yan)
		o.base, o.theirs[n.holds(yan)], o.theirs[n.id] = 1, claim{span: c.yans}, claim{span: span{1, c.mine, 1}}
		changed := n.changed
		o.vectorCameLocked(!c.later)
		s := cmp.Or(o.subs[n.id], &sub{})
		if source := n.sources[yan.id] != nil; s.next != c.sends || s.early != c.early || source != c.source {
			t.Errorf("%s: he is sent what begins with %d, or said after %d; he is the source of his feed: %v", c.name, s.next, s.early, source)
		}
		if _, lacks := n.lacking[yan.id]; lacks != c.lacks {
			t.Errorf("%s: she looks for more: %v", c.name, lacks)
		}
		if o.vector != c.yans.last && !c.later || o.stirred[n.id] == c.later || n.changed == changed {
			t.Errorf("%s: his vector is %d; the writer looks for Ann's posts: %v; who waits looks again: %v", c.name, o.vector, o.stirred[n.id], n.changed != changed)
		}
	}

	// What others have is asked for at once, and a newcomer waits for it; but not for
	// more than the author itself says.
	for _, c := range []struct {
		name  string
		xen   int // 1: is connected, 2: and has told its vector
		asked bool
		waits uint64
	}{{"Xen is not here", 0, true, 9}, {"Xen connects", 1, false, 9}, {"Xen is here", 2, true, 0}} {
		n, xen := newStill(), newScribe(2, "Xen")
		n.history.hold()
		o := n.hasHeard(newScribe(1, "Yan"))
		if c.xen > 0 {
			n.meets(xen, at, true).firstPart = c.xen > 1
		}
		n.hasLocked(o, xen.id, span{1, 9, 1}, netip.AddrPort{})
		o.vectorCameLocked(false)
		if _, asked := o.wants[xen.id]; asked != c.asked || n.history.awaited(xen.id) != c.waits {
			t.Errorf("%s: Yan is asked: %v, and %d posts are awaited", c.name, asked, n.history.awaited(xen.id))
		}
	}

	// A newcomer who has all that it waits for waits no longer.
	n, yan := newStill(), newScribe(1, "Yan")
	n.history.hold()
	n.gather.from = "Yan"
	o := n.hasHeard(yan)
	o.toldAll, o.theirs[n.holds(yan)] = true, claim{span: span{1, 2, 1}}
	if o.vectorCameLocked(true); !n.gather.done {
		t.Error("a newcomer waits for what is there")
	}
}

// TestWhatArrivedIsProgress: Ann has sent much, a long line among it, and hears what has
// arrived of it.
func TestWhatArrivedIsProgress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		before, now  int64
		free         bool // it was worth being told
		acked, taken bool // the peer is worth being waited for; so is the end of what nobody has yet
		best         uint64
		since        int64 // what had arrived when Ann's join was acknowledged
		short        bool  // her line is
	}{
		{name: "too little", now: progress - 1, free: true},
		{name: "enough", before: progress - signatureSize, now: progress, free: true, acked: true, taken: true},
		{name: "a few bytes", before: progress, now: progress + signatureSize - 1},
		{name: "more than the line can be", before: 1<<19 - signatureSize, now: 1 << 19, free: true, since: 1<<19 - 50_000*5},
		{name: "not more yet", before: 1<<19 - signatureSize, now: 1 << 19, free: true, acked: true, taken: true, since: 1<<19 - 50_000*4},
		{name: "enough, but her line is short", before: progress - signatureSize, now: progress, free: true, short: true},
		{name: "no more", before: progress, now: progress},
		{name: "less", before: progress, now: 1},
		{name: "enough, but another has it all", now: progress, free: true, acked: true, best: 2},
	} {
		n := newStill()
		if line := strings.Repeat("x", 50_000); c.short {
			n.say(kindLines, []byte("hi"))
		} else {
			n.say(kindLines, []byte(line))
		}
		n.bestAck = c.best
		o := n.hasHeard(newScribe(1, "Yan"))
		o.theirs[n.id] = claim{span: span{1, 1, 1}}
		o.flow.sent, o.flow.arrived, o.flow.acked, o.debt = 1<<20, c.before, c.since, time.Second
		must(t, o.handle(frameGot, appendGot(nil, c.now)[5:]))
		if free, acked, taken := o.debt == 0, !o.ackedAt.IsZero(), !n.takenAt.IsZero(); free != c.free || acked != c.acked || taken != c.taken {
			t.Errorf("%s: it is free: %v, an acknowledgement: %v, and somebody takes it: %v", c.name, free, acked, taken)
		}
	}
}

// TestWhatComesOfAWant: Ann has Xen's posts from the fifth to the ninth.
func TestWhatComesOfAWant(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		w     want
		sends bool
		told  bool // he hears what Ann has
	}{
		{want{from: 5}, true, false}, {want{from: 9, over: true}, true, false}, {want{from: 4}, true, true}, {want{from: 10}, true, true}, {want{}, false, false},
	} {
		n, xen := newStill(), newScribe(2, "Xen")
		noError(n.history.add(xen.id, xen.chat(9)[4:], true, true))
		o := n.hasHeard(newScribe(1, "Yan"))
		o.subs[xen.id] = &sub{author: xen.id, next: 7}
		must(t, o.handle(frameWant, frameList{ids: []nodeID{xen.id}, wants: []want{c.w}}.want()))
		s, sends := o.subs[xen.id]
		if sends != c.sends || sends && (s.next != c.w.from || s.over != c.w.over) || o.stirred[xen.id] != sends {
			t.Errorf("%+v: Yan is sent %+v, and the writer looks for it: %v", c.w, s, o.stirred[xen.id])
		}
		if told := o.telling.authors[xen.id]; told != c.told {
			t.Errorf("%+v: Yan hears what Ann has: %v", c.w, told)
		}
	}
}

// TestWhoseSightingsAreTaken: of an author whose feed somebody was asked for.
func TestWhoseSightingsAreTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name               string
		asked, ours, early bool // of him who tells; we are connected with the author; its join is still to come
		free, taken        bool
	}{
		{name: "of one who was asked", asked: true, free: true, taken: true},
		{name: "ahead of the join", asked: true, early: true, free: true},
		{name: "of one who was not asked"},
		{name: "of one who is here", asked: true, ours: true},
	} {
		n, xen := newStill(), newScribe(2, "Xen")
		if !c.early {
			n.holds(xen)
		}
		o, by := n.hasHeard(newScribe(1, "Yan")), n.hasHeard(newScribe(3, "Bob"))
		n.sources[xen.id] = &source{from: by}
		if c.asked {
			n.sources[xen.id].from = o
		}
		if c.ours {
			n.meets(xen, xen.addr, true)
		}
		o.debt = time.Second
		x := sighting{xen.id, kindLost, time.Now().UnixMicro(), []byte("Xe\x1bn"), xen.addr}
		must(t, o.handle(frameSeen, appendSeen(nil, x)[5:]))
		if free, taken := o.debt == 0, n.history.about(xen.id).state == lost; free != c.free || taken != c.taken {
			t.Errorf("%s: it is free: %v, and taken: %v", c.name, free, taken)
		}
		for _, e := range n.history.sightings(xen.id, 0) {
			if p := e.content(); string(p.name) != cleanName([]byte("Xe\x1bn")) {
				t.Errorf("%s: it names %q", c.name, p.name)
			}
		}
	}
}

// TestWhoIsRousedForPosts at once: who rests gets our own, and what he asked for.
func TestWhoIsRousedForPosts(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		n, xen := l.enter("Ann", deaf()).node, nodeID{1}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, c := range []struct {
			author nodeID
			wanted bool
			roused bool
		}{{n.id, false, true}, {xen, true, true}, {xen, false, false}} {
			o := n.hasHeard(newScribe(1, "Yan"))
			if c.wanted {
				o.subs[xen] = &sub{author: xen}
			}
			ct := n.contacts[o.peer]
			n.moveLocked(ct, resting, o)
			if n.relayLocked(c.author); ct.tie == waking != c.roused {
				t.Errorf("for %v, which he wants: %v, Yan is roused: %v", c.author, c.wanted, ct.tie == waking)
			}
			n.moveLocked(ct, away, nil)
		}
	})
}

// TestWhatCountsAsDelivered: Ann has said three posts, two of them before Yan came.
func TestWhatCountsAsDelivered(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		acked uint64
		quiet time.Duration
		want  uint64
	}{{0, 0, 2}, {2, 0, 2}, {3, 0, 3}, {0, unresponsive, 3}} {
		n, now := newStill(), time.Now()
		n.say(kindLines, []byte("one"))
		n.say(kindLines, []byte("two"))
		o := n.hasHeard(newScribe(1, "Yan"))
		o.base, o.ackedAt, o.theirs[n.id] = 2, now.Add(-c.quiet), claim{span: span{1, c.acked, 1}}
		if got := n.deliveredLocked(now); got != c.want {
			t.Errorf("Yan has %d, and said so %v ago: %d count as delivered, want %d", c.acked, c.quiet, got, c.want)
		}
	}
}

// ---- reading

// TestLoadingTooSlowlyEndsWithTheFrame: while much is under way a frame has its time,
// from its beginning, and what comes in time ends nothing; nor does what takes long where
// the host has no more than its part.
func TestLoadingTooSlowlyEndsWithTheFrame(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		full  bool // all have much under way
		most  bool // it is all of one host
		ends  bool
	}{
		{slowFrame - time.Second, true, true, false},
		{slowFrame + time.Second, true, true, true},
		{slowFrame + time.Second, true, false, false},
		{slowFrame + time.Second, false, true, false},
	} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			v := l.visitor(ann, newKey(), "Mallory", nil)
			v.says(hasNothing())
			after(time.Second)
			n, host := ann.node, netip.MustParseAddr("10.9.9.9")
			n.mu.Lock()
			if c.full {
				n.loading = maxLoading - maxRun
			}
			if !c.most {
				host = netip.MustParseAddr("10.9.9.8")
			}
			n.loads[host] = n.loading
			n.mu.Unlock()
			frame := framed(99, make([]byte, 1000))
			for range 3 {
				v.says(frame[:500])
				after(c.takes)
				v.says(frame[500:])
				synctest.Wait()
			}
			after(time.Second)
			if v.isCutOff() != c.ends {
				t.Errorf("%+v: the connection is ended: %v", c, !c.ends)
			}
		})
	}
}

// TestWhoMayHaveMoreUnderWay: two hosts have something under way, and a third may begin.
func TestWhoMayHaveMoreUnderWay(t *testing.T) {
	t.Parallel()
	a, b, third := netip.MustParseAddr("10.9.9.8"), netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("10.9.9.10")
	for _, c := range []struct {
		ofA, ofB int
		host     netip.Addr
		more     int
		want     bool // it has to wait
	}{
		{0, maxLoading - 100, b, 100, false},
		{0, maxLoading - 100, b, 101, true},
		{0, maxLoading, third, maxLoading, false},
		{100, maxLoading, b, 1, true},
		{100, maxLoading, a, maxLoading/2 - 100, false},
		{100, maxLoading, a, maxLoading/2 - 99, true},
		{maxLoading, maxLoading, third, maxLoading / 2, false},
		{maxLoading, maxLoading, third, maxLoading/2 + 1, true},
	} {
		n := newStill()
		n.loading = c.ofA + c.ofB
		for host, size := range map[netip.Addr]int{a: c.ofA, b: c.ofB} {
			if size > 0 {
				n.loads[host] = size
			}
		}
		if got := n.isFullLocked(c.host, c.more); got != c.want {
			t.Errorf("beside %d and %d bytes, %v has to wait with %d more: %v", c.ofA, c.ofB, c.host, c.more, got)
		}
	}
}

// TestWhoReadsNothingSeesNoSilence: a reader that waits for something else can't tell.
func TestWhoReadsNothingSeesNoSilence(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		near, far := l.wire(&guest{}, &guest{})
		m := &meter{Conn: near, start: time.Now()}
		go m.Read(make([]byte, 1))
		after(time.Hour)
		if got := m.sinceRead(); got < time.Hour-time.Second {
			t.Errorf("nothing has come for %v", got)
		}
		far.Write([]byte("x"))
		after(time.Hour)
		if got := m.sinceRead(); got != 0 {
			t.Errorf("nobody reads, and nothing has come for %v", got)
		}
	})
}

// ---- what is written

// kinds returns the types of the frames in b.
func kinds(b []byte) (all []byte) {
	for r := bytes.NewReader(b); r.Len() > 0; {
		typ, _, err := readFrame(r, maxFrame)
		all = append(all, typ)
		noError(0, err)
	}
	return all
}

// TestWhatIsSentOfAFeed: Yan gets what Xen said, of which Ann has the posts from some
// number to the ninth.
func TestWhatIsSentOfAFeed(t *testing.T) {
	t.Parallel()
	xen := newScribe(2, "Xen")
	run := xen.chat(8)
	leave := xen.writes(kindLeave, scribeTime+1e9, "")
	const size = 2 << 10
	for _, c := range []struct {
		name   string
		first  int    // that Ann has
		next   uint64 // that Yan is to get
		over   bool   // he asked to leave out what is missing
		leaves bool   // the ninth is Xen's leave
		anew   bool   // he has asked anew
		bulk   nodeID // whose post is under way in pieces
		sends  bool
		ends   bool // nothing of it is sent after that
		told   bool // he hears what Ann has
	}{
		{name: "all", first: 1, next: 1, sends: true},
		{name: "some are missing", first: 5, next: 2, ends: true, told: true},
		{name: "some are missing, but he has asked anew", first: 5, next: 2, anew: true, told: true},
		{name: "some are left out", first: 5, next: 2, over: true, sends: true},
		{name: "with a leave", first: 1, next: 1, leaves: true, sends: true, ends: true},
		{name: "with a leave, but he has asked anew", first: 1, next: 1, leaves: true, anew: true, sends: true},
		{name: "a post of Xen is under way", first: 1, next: 1, bulk: xen.id},
		{name: "a post of another is under way", first: 1, next: 1, bulk: nodeID{1}, sends: true},
		{name: "nothing is new", first: 1, next: 10},
	} {
		n := newStill()
		posts := append(slices.Clone(run), leave)[c.first-1:]
		if !c.leaves {
			posts = posts[:len(posts)-1]
		}
		noError(n.history.add(xen.id, posts, true, true))
		o := n.hasHeard(newScribe(1, "Yan"))
		s := &sub{author: xen.id, next: c.next, over: c.over}
		if o.subs[xen.id] = s; c.anew {
			o.subs[xen.id] = &sub{author: xen.id, next: c.next}
		}
		if o.bulkOf = c.bulk; c.bulk != (nodeID{}) {
			o.bulk = make([]byte, 10)
		}
		b := o.appendPosts(nil, s, size)
		if sends, ends, told := len(b) > 0, o.subs[xen.id] == nil, o.telling.authors[xen.id]; sends != c.sends || ends != c.ends || told != c.told {
			t.Errorf("%s: %d bytes are sent; nothing follows: %v; Yan hears what Ann has: %v", c.name, len(b), ends, told)
		}
		if c.sends && (s.next != posts[len(posts)-1].number+1 || s.over) {
			t.Errorf("%s: the next is %d, and may be left out: %v", c.name, s.next, s.over)
		}
	}

	// A post that is larger than the run waits until none is under way in pieces.
	n := newStill()
	n.say(kindLines, []byte(strings.Repeat("x", 2*size)))
	o := n.hasHeard(newScribe(1, "Yan"))
	s := &sub{author: n.id, next: 2}
	o.bulk, o.bulkOf = make([]byte, 10), xen.id
	if b := o.appendPosts(nil, s, size); len(b) > 0 {
		t.Error("two posts are under way in pieces")
	}
	o.bulk = nil
	if b := o.appendPosts(nil, s, size); !bytes.Equal(kinds(b), []byte{framePart}) {
		t.Errorf("a large post begins with frames %v", kinds(b))
	}

	// A leave of ours ends nothing, since its peer may have to be told of it.
	n.say(kindLeave, nil)
	o.subs[n.id], o.bulk, s.next = s, nil, 3
	if o.appendPosts(nil, s, size); o.subs[n.id] != s {
		t.Error("our own feed ends with our leave")
	}

	// A sighting is sent once.
	n.history.note(n.holds(newScribe(3, "Bob")), post{kind: kindLost})
	s = &sub{author: newScribe(3, "").id, next: 3}
	for i, want := range [][]byte{{frameSeen}, nil} {
		if got := kinds(o.appendPosts(nil, s, size)); !bytes.Equal(got, want) {
			t.Errorf("look %d: frames %v, want %v", i, got, want)
		}
	}
}

// TestWhatGoesAheadOfItsTurn: something that Ann said since Yan came.
func TestWhatGoesAheadOfItsTurn(t *testing.T) {
	t.Parallel()
	const size = 1 << 10
	for _, c := range []struct {
		name  string
		lines []int  // the bytes of each
		early uint64 // up to which it has gone then
		sends bool
	}{
		{"nothing", nil, 1, false},
		{"two lines", []int{10, 10}, 3, true},
		{"a large one", []int{2 * size}, 1, false},
		{"more than fits", []int{size / 2, size / 2, size / 2, size / 2}, 1, false},
	} {
		n := newStill()
		for _, line := range c.lines {
			n.say(kindLines, bytes.Repeat([]byte("x"), line))
		}
		o, own := n.hasHeard(newScribe(1, "Yan")), &sub{author: n.id, next: 1, early: 1}
		if b := o.appendEarly(nil, own, size); len(b) > 0 != c.sends || own.early != c.early {
			t.Errorf("%s: %d bytes go ahead, up to post %d", c.name, len(b), own.early)
		}
	}

	// It goes ahead only where the path is slow: it is sent again in its turn.
	for took, want := range map[time.Duration]bool{0: false, flowFast: true} {
		n := newStill()
		n.say(kindLines, []byte("hi"))
		o := n.hasHeard(newScribe(1, "Yan"))
		o.base, o.subs[n.id] = 1, &sub{author: n.id, next: 1, early: 1}
		o.flow.took, o.flow.sent = took, o.flow.limit()
		if b, _ := o.compose(nil); bytes.Contains(b, []byte("hi")) != want {
			t.Errorf("where a window takes %v, it goes ahead: %v", took, !want)
		}
	}
}

// TestFeedsOfOthersWaitUnseenForTheirTurn: while the peer has to take what is under way, or
// to check it, what we say goes out, and nothing else is looked at. We don't part before.
func TestFeedsOfOthersWaitUnseenForTheirTurn(t *testing.T) {
	t.Parallel()
	for name, full := range map[string]flow{
		"the window is full":         {bounded: true, sent: firstWindow},
		"there is enough to check":   {bounded: true, checks: mostChecks},
		"there is room for anything": {bounded: true},
	} {
		n := newStill()
		n.say(kindLines, []byte("hi"))
		o, waits := n.hasHeard(newScribe(1, "Yan")), full.room() <= 0 || full.checks > 0
		o.base, o.subs[n.id], o.flow = 0, &sub{author: n.id, next: 1}, full
		o.stirred[n.id], o.stirred[nodeID{9}] = true, true // of which there is nothing to send
		if b, _ := o.compose(nil); !bytes.Contains(b, []byte("hi")) || o.stirred[nodeID{9}] != waits {
			t.Errorf("%s: what we said goes out: %v; another feed is looked at: %v", name, bytes.Contains(b, []byte("hi")), !o.stirred[nodeID{9}])
		}
		o.bye, o.theirs[n.id] = byeLeaving, claim{span: n.history.span(n.id)}
		o.telling = telling{}
		if _, bye := o.compose(nil); waits && bye != 0 {
			t.Errorf("%s: we part while something may be left", name)
		}
		o.flow = flow{bounded: true}
		o.compose(nil) // what is left
		if _, bye := o.compose(nil); bye != byeLeaving {
			t.Errorf("%s: we don't part when all is sent", name)
		}
	}
}

// TestWhatIsToldGoesInPieces: very many authors, and feeds to ask for.
func TestWhatIsToldGoesInPieces(t *testing.T) {
	t.Parallel()
	const many = maxRun / wantEntry * 3 / 2
	n := newStill()
	o := n.hasHeard(newScribe(1, "Yan"))
	for i := range many {
		o.wants[nodeNumber(i)] = want{from: 1}
		o.telling.authors[nodeNumber(i)] = true
	}
	o.telling.flag = haveComplete
	before := reflect.ValueOf(o.telling.authors).Pointer()
	told, asked, complete := 0, 0, false
	for range many {
		b := o.controlLocked(nil)
		if len(b) == 0 {
			break
		}
		for r := bytes.NewReader(b); r.Len() > 0; {
			typ, body, err := readFrame(r, maxFrame)
			must(t, err)
			most := maxHave + haveEntry
			switch typ {
			case frameHave:
				x := noError(listHave(body))
				told, complete = told+len(x.ids), x.flags == haveComplete
			case frameWant:
				asked += len(noError(listWant(body)).ids)
				most = maxRun + wantEntry
			}
			if len(body) > most {
				t.Errorf("a frame of type %d has %d bytes, want %d at most", typ, len(body), most)
			}
		}
	}
	if told != many || asked != many || !complete {
		t.Errorf("%d are told, and %d asked for, want %d; the last says that this is all: %v", told, asked, many, complete)
	}
	if reflect.ValueOf(o.telling.authors).Pointer() == before {
		t.Error("the memory for so many is kept")
	}
}

// TestDroppedPostsAreAcknowledged: Yan's posts came, and keep has dropped them.
func TestDroppedPostsAreAcknowledged(t *testing.T) {
	t.Parallel()
	n, yan := newStill(), newScribe(1, "Yan")
	o, author := n.hasHeard(yan), n.holds(yan)
	mark := yan.last.link.mark()
	n.history.loosen(n.history.printer, true)
	n.history.mu.Lock()
	n.history.keep = 1
	n.history.dropOldestLocked(dropAtOnce)
	n.history.mu.Unlock()
	if s := n.history.span(author); s.last > 0 {
		t.Fatalf("Ann holds %+v", s)
	}
	for peer, want := range map[nodeID]span{author: {2, 2, mark}, {1}: {}} {
		o.peer, o.telling.authors[author] = peer, true
		x := noError(listHave(o.appendHaveLocked(nil)[5:]))
		if len(x.spans) != 1 || x.spans[0] != want {
			t.Errorf("%v hears %+v, want %+v", peer, x.spans, want)
		}
	}
}

// TestLargeBufferIsForgotten: what a large write took is given back once there is
// nothing to say.
func TestLargeBufferIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, l *lab) {
		ann := l.enter("Ann", deaf())
		const members, large = 20, 200 << 10
		for range members {
			v := l.visitor(ann, newKey(), "Mallory", nil)
			v.says(hasNothing())
		}
		after(time.Second)
		ann.node.mu.Lock()
		for _, c := range ann.conns {
			c.flow = flow{bounded: true, window: 4 * maxRun}
		}
		ann.node.mu.Unlock()
		ann.says("%s", strings.Repeat("x", 60_000))
		for range large / 60_000 {
			ann.h().say(kindLines, bytes.Repeat([]byte("x"), 60_000))
		}
		ann.says("the end")
		synctest.Wait()
		held := func() int {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		before := held()
		after(slowHeartbeat + 2*tickEvery)
		if freed := before - held(); freed < members*large/2 {
			t.Errorf("%d KiB are given back for each of %d", freed/members>>10, members)
		}
	})
}

// TestLargeFrameIsNotReadWhileItsPeerHasToWait, unless it holds posts.
func TestLargeFrameIsNotReadWhileItsPeerHasToWait(t *testing.T) {
	for typ, read := range map[byte]bool{frameHave: false, framePosts: true} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			v := l.visitor(ann, newKey(), "Mallory", nil)
			v.says(hasNothing())
			after(time.Second)
			ann.node.mu.Lock()
			c := ann.conns[v.id]
			c.work = tab{time.Hour, time.Now()}
			ann.work.all = c.work
			ann.node.mu.Unlock()
			v.says(framed(typ, make([]byte, largeFrame+1))[:100])
			after(time.Second)
			ann.node.mu.Lock()
			if loading := ann.node.loading; loading > 0 != read {
				t.Errorf("a frame of type %d: %d bytes of memory are taken", typ, loading)
			}
			ann.node.mu.Unlock()
			v.raw.Close()
		})
	}
}

// TestRecordsOfAByteArePaidFor: what cuts a frame into thousands of TLS records makes
// thousands of times the work, and many frames in one record make none.
func TestRecordsOfAByteArePaidFor(t *testing.T) {
	for _, cut := range []bool{false, true} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf())
			v := l.visitor(ann, newKey(), "Mallory", nil)
			v.says(hasNothing())
			after(time.Second)
			frames := bytes.Repeat(framed(99, make([]byte, 10)), 100)
			frames = append(frames, framed(99, make([]byte, 5000))...)
			if !cut {
				v.says(frames)
			}
			for i := range frames {
				if cut {
					v.says(frames[i : i+1])
				}
			}
			synctest.Wait()
			ann.node.mu.Lock()
			defer ann.node.mu.Unlock()
			if owed := ann.conns[v.id].work.owed; cut != (owed > 10*time.Millisecond) {
				t.Errorf("in records of a byte: %v; the peer owes %v", cut, owed)
			}
		})
	}
}

// TestLackOfFilesIsToldOnce, and it keeps no processor busy.
func TestLackOfFilesIsToldOnce(t *testing.T) {
	for err, warned := range map[error]int{syscall.EMFILE: 1, syscall.ENFILE: 1, errors.New("odd"): 0} {
		synctest.Test(t, func(t *testing.T) {
			n, told, began := newStill(), 0, time.Now()
			n.warn, n.logf = func(string, ...any) { told++ }, func(string, ...any) {}
			n.accept(&failing{err: &net.OpError{Err: os.NewSyscallError("accept", err)}})
			if took := time.Since(began); told != warned || took != 3*tickEvery {
				t.Errorf("%v: the user is warned %d times; three tries take %v", err, told, took)
			}
		})
	}
}

// failing is a listener that fails three times, and then is closed.
type failing struct {
	net.Listener
	err   error
	tries int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.tries++; f.tries > 3 {
		return nil, net.ErrClosed
	}
	return nil, f.err
}

// ---- what waits

// TestWhatComesWaitsForThePrinter: what is still to be printed takes no more than keep
// allows, whatever a peer sends.
func TestWhatComesWaitsForThePrinter(t *testing.T) {
	for _, secret := range []bool{false, true} {
		inBubble(t, func(t *testing.T, l *lab) {
			ann := l.enter("Ann", deaf(), withKeep(smallKeep))
			yan := newScribe(7, "Yan")
			v := l.visitor(ann, yan.key, "Yan", nil)
			v.says(hasNothing())
			after(time.Second)
			ann.setStuck(true)
			const all, size = 100, 2000
			text := strings.Repeat("x", size)
			yan.writes(kindJoin, time.Now().UnixMicro(), "")
			said := framed(framePosts, runOf(yan.id, []post{yan.last}))
			for i := range all {
				at := time.Now().UnixMicro() + int64(i) + 1
				if secret {
					said = append(said, appendDirect(nil, direct{uint64(i + 1), at, []byte(text)})...)
				} else {
					said = append(said, framed(framePosts, runOf(yan.id, []post{yan.writes(kindLines, at, text)}))...)
				}
			}
			go v.says(said) // Ann stops reading
			after(5 * time.Second)
			if most := int64(smallKeep * 3 / 2); ann.h().total() > most {
				t.Errorf("in secret: %v: %d bytes wait for the printer, want %d at most", secret, ann.h().total(), most)
			}
			ann.setStuck(false)
			after(10 * time.Second)
			ann.wantLines(all, `: x+$`)
		})
	}
}

// TestWhatMayWaitForOnePeer of direct messages: as much as its outbox takes, each
// with the name of its receiver in the text that the history notes.
func TestWhatMayWaitForOnePeer(t *testing.T) {
	t.Parallel()
	n, yan := newStill(), member{id: newScribe(1, "Yan").id, name: "Yan"}
	text := []byte("psst")
	must(t, n.sendDirect(yan, text))
	copy(text, "pfff")
	ct := n.contacts[yan.id]
	if got := string(ct.out[0].text); got != "psst" {
		t.Errorf("%q waits, and the line that was typed next is in it", got)
	}
	most := maxText - len("Yan\n")
	if n.sendDirect(yan, make([]byte, most+1)) == nil {
		t.Error("a direct message may be longer than what the history notes of it")
	}
	sent := len("psst")
	for n.sendDirect(yan, make([]byte, most)) == nil && sent <= 2*maxOutbox {
		sent += most
	}
	if sent > maxOutbox || sent <= maxOutbox-most {
		t.Errorf("%d bytes wait, want %d at most", sent, maxOutbox)
	}
}

// TestWhatIsNotedOfTakenPosts: a newcomer waits for what Yan said, and a direct
// message of his comes as well.
func TestWhatIsNotedOfTakenPosts(t *testing.T) {
	t.Parallel()
	n, yan := newStill(), newScribe(1, "Yan")
	n.history.hold()
	n.history.await(yan.id, 9, true)
	o := n.hasHeard(yan)
	s := &source{from: o, waiting: []sighting{{author: yan.id, kind: kindLost, time: scribeTime + 1}}}
	n.sources[yan.id], n.lacking[yan.id] = s, lacked{}
	body := runOf(yan.id, yan.chat(3))
	must(t, o.handle(framePosts, body))
	if n.lacking[yan.id].took.IsZero() || s.waiting != nil || n.gather.bytes != len(body) {
		t.Errorf("posts came at %v, %d sightings wait, and %d bytes came", n.lacking[yan.id].took, len(s.waiting), n.gather.bytes)
	}
	for range 2 { // it may not have heard that the first was taken
		o.telling.beat = false
		if must(t, o.handle(frameDirect, appendDirect(nil, direct{1, scribeTime, []byte("psst")})[5:])); !o.telling.beat {
			t.Error("a direct message is not acknowledged")
		}
	}
	n.contacts[yan.id].out = []*outgoing{{direct: direct{number: 1}}}
	changed := n.changed
	if must(t, o.handle(frameHave, frameList{taken: 1}.have())); n.changed == changed {
		t.Error("who waits until a direct message is taken does not look again")
	}
}
