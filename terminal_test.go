package main

// These tests sit at a terminal: tmux runs p2pchat on a real pty, types into
// it, and tells what the screen shows. They hold the program to what README
// says of people at a keyboard: a typed line turns into its timestamped form,
// what is half typed is never lost, and nothing that others send moves
// anything on the screen.

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A terminal is a screen of 100 columns and 30 lines on which a node runs.
type terminal struct {
	t      testing.TB
	name   string
	sock   string // of a tmux server of our own
	status string // file that gets the exit status

	entered time.Time // when Enter was last pressed
}

// terminalNode starts p2pchat on a terminal, on loopback, in the room of the
// given UDP port. redirect is what a shell would add to the command.
func terminalNode(t testing.TB, port int, name, redirect string, flags ...string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no tmux to test the terminal with; install it: apt-get install tmux")
		}
		t.Skip("no tmux to test the terminal with; install it: apt-get install tmux")
	}
	// Not in t.TempDir(): the address of a socket has to be short.
	dir, err := os.MkdirTemp("", "p2pchat")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf := filepath.Join(dir, "conf")
	must(t, os.WriteFile(conf, []byte("set -g status off\nset -g remain-on-exit on\n"), 0o600))
	tm := &terminal{t: t, name: name, sock: filepath.Join(dir, "sock"), status: filepath.Join(dir, "status")}

	argv := []string{"-u", "-f", conf, "-S", tm.sock, "new-session", "-d", "-x", "100", "-y", "30",
		"sh", "-c", `trap : INT; "$0" "$@" ` + redirect + `; echo $? >'` + tm.status + `'`, // Ctrl-C reaches the shell as well
		self(t), "-bind", "127.0.0.1", "-port", strconv.Itoa(port)}
	cmd := exec.Command("tmux", append(append(argv, flags...), name)...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "TMUX") { // the tests themselves may be run within tmux
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "P2PCHAT_RUN=1", "TZ=UTC", "SHELL=/bin/sh")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tmux: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("screen of %s:\n%s", name, strings.Join(tm.screen(), "\n"))
		}
		exec.Command("tmux", "-S", tm.sock, "kill-server").Run()
	})
	return tm
}

// tmux runs a command of the terminal's server.
func (tm *terminal) tmux(args ...string) string {
	tm.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-u", "-S", tm.sock}, args...)...).CombinedOutput()
	if err != nil {
		tm.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// A person's pace: lines that come faster are taken for pasted ones, which
// need not be replaced by their timestamped form.
const pace = 200 * time.Millisecond

// enters types a line, as it is, and presses Enter.
func (tm *terminal) enters(line string) {
	tm.t.Helper()
	tm.types(line)
	time.Sleep(time.Until(tm.entered.Add(pace)))
	tm.presses("Enter")
	tm.entered = time.Now()
}

// types types text, as it is.
func (tm *terminal) types(text string) { tm.t.Helper(); tm.tmux("send-keys", "-l", "--", text) }

// presses presses keys by their names in tmux: Enter, C-d.
func (tm *terminal) presses(keys ...string) {
	tm.t.Helper()
	tm.tmux(append([]string{"send-keys"}, keys...)...)
}

var (
	stampOnScreen = regexp.MustCompile(stampPat)
	hostOnScreen  = regexp.MustCompile(hostPat)
)

// screen returns the lines on the screen, without the empty ones at its end,
// with TIME and HOST in place of what differs from run to run.
func (tm *terminal) screen() []string {
	tm.t.Helper()
	text := stampOnScreen.ReplaceAllString(tm.tmux("capture-pane", "-p", "-J"), "TIME")
	text = hostOnScreen.ReplaceAllString(text, "HOST")
	lines := strings.Split(strings.TrimRight(text, "\n "), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return lines
}

// until waits until the screen is as ok wants it.
func (tm *terminal) until(what string, ok func(screen []string) bool) {
	tm.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok(tm.screen()) {
			return
		}
	}
	tm.t.Fatalf("%s: the screen doesn't show %s:\n%s", tm.name, what, strings.Join(tm.screen(), "\n"))
}

// shows waits for a line on the screen.
func (tm *terminal) shows(line string) {
	tm.t.Helper()
	tm.until(strconv.Quote(line), func(screen []string) bool { return slices.Contains(screen, line) })
}

// showsExactly waits until the screen, below the line that says who and where
// we are, holds these lines and nothing else.
func (tm *terminal) showsExactly(lines ...string) {
	tm.t.Helper()
	tm.until("exactly, below the first line:\n"+strings.Join(lines, "\n")+"\nbut", func(screen []string) bool {
		return slices.Equal(screen[1:], lines)
	})
}

// ended waits for the end of the program and returns its exit status.
func (tm *terminal) ended() string {
	tm.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if status, _ := os.ReadFile(tm.status); strings.HasSuffix(string(status), "\n") {
			return strings.TrimSpace(string(status))
		}
	}
	tm.t.Fatalf("%s: still runs", tm.name)
	return ""
}

// atTerminal has Tim on a pipe and Alex at a terminal, who have met.
func atTerminal(t *testing.T, flags ...string) (*proc, *terminal) {
	t.Helper()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	tim.complains(patience, `Tim`) // is up
	alex := terminalNode(t, port, "Alex", "", flags...)
	tim.sees(patience, at("Alex")+` joined$`)
	alex.shows("TIME * Tim@HOST joined")
	return tim, alex
}

func TestTypedLineTurnsIntoItsTimestampedForm(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	tim.say("hello Alex")
	alex.shows("TIME Tim@HOST: hello Alex")
	alex.enters("hi Tim")
	tim.sees(patience, at("Alex")+`: hi Tim$`)
	alex.shows("TIME Alex (me): hi Tim")
	tim.say("日本語?")
	alex.shows("TIME Tim@HOST: 日本語?")
	alex.enters("@Tim はい, żółw")
	tim.sees(patience, at("Alex")+` -> me: はい, żółw$`)
	alex.shows("TIME Alex (me) -> Tim@HOST: はい, żółw")
	edge := strings.Repeat("x", 79)
	alex.enters(edge)
	tim.sees(patience, at("Alex")+`: `+edge+`$`)
	tim.say("/exit")
	alex.showsExactly(
		"TIME * Tim@HOST joined",
		"TIME Tim@HOST: hello Alex",
		"TIME Alex (me): hi Tim",
		"TIME Tim@HOST: 日本語?",
		"TIME Alex (me) -> Tim@HOST: はい, żółw",
		"TIME Alex (me): "+edge,
		"TIME * Tim@HOST left",
	)
}

func TestHalfTypedLineIsNotLost(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	alex.types("half a ")
	alex.until("what is typed", func(screen []string) bool { return screen[len(screen)-1] == "half a" })
	tim.say("an interruption", "and one more")
	alex.shows("TIME Tim@HOST: and one more")
	alex.enters("message")
	tim.sees(patience, at("Alex")+`: half a message$`)
	alex.showsExactly(
		"TIME * Tim@HOST joined",
		"TIME Tim@HOST: an interruption",
		"TIME Tim@HOST: and one more",
		"TIME Alex (me): half a message",
	)
}

func TestCtrlRShowsHalfTypedLineAgain(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	alex.types("half a message")
	alex.until("what is typed", func(screen []string) bool { return screen[len(screen)-1] == "half a message" })
	tim.say("an interruption")
	alex.shows("TIME Tim@HOST: an interruption")
	alex.presses("C-r")
	alex.until("the line again", func(screen []string) bool { return screen[len(screen)-1] == "half a message" })
	alex.presses("Enter")
	tim.sees(patience, at("Alex")+`: half a message$`)
	alex.shows("TIME Alex (me): half a message")
}

func TestLongTypedLineStaysWhole(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	text := strings.Repeat("wide and long ", 20) + "end"
	alex.enters(text)
	tim.sees(patience, at("Alex")+`: `+text+`$`)
	alex.until("the long line", func(screen []string) bool {
		return screen[1] == "TIME * Tim@HOST joined" &&
			strings.Contains(strings.Join(screen, "\n"), "\nTIME Alex (me): "+text)
	})
}

func TestTerminalLeaves(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"C-d", "C-c"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			tim, alex := atTerminal(t)
			alex.presses(key)
			if status := alex.ended(); status != "0" {
				t.Errorf("exit status %s, want 0", status)
			}
			tim.sees(patience, `\* `+at("Alex")+` left$`)
		})
	}
}

// TestCtrlDEndsAHalfTypedLineAndThenTheChat: the first sends what was typed,
// as cat does, and the second is the end.
func TestCtrlDEndsAHalfTypedLineAndThenTheChat(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	alex.types("half a line")
	alex.presses("C-d", "C-d")
	tim.sees(patience, `: half a line$`)
	if status := alex.ended(); status != "0" {
		t.Errorf("exit status %s, want 0", status)
	}
}

func TestTerminalIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	// At a keyboard nobody is waited for: a mistake is told at once, and is no
	// failure of the program.
	tim, alex := atTerminal(t, "-wait", "1h")
	alex.enters("@Nobody hello")
	alex.until("a refusal", func(screen []string) bool {
		return slices.ContainsFunc(screen, func(l string) bool {
			return strings.HasPrefix(l, "p2pchat: ") && strings.Contains(l, "Nobody")
		})
	})
	alex.enters("/help")
	alex.until("Ctrl-R in the help", func(screen []string) bool {
		return slices.ContainsFunc(screen, func(l string) bool {
			return strings.HasPrefix(l, "TIME * ") && strings.Contains(l, "Ctrl-R")
		})
	})
	alex.enters("/exit")
	if status := alex.ended(); status != "0" {
		t.Errorf("exit status %s, want 0", status)
	}
	tim.sees(patience, `\* `+at("Alex")+` left$`)
}

func TestHostileTextLeavesTheScreenAlone(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	tim.say("before")
	alex.shows("TIME Tim@HOST: before")
	want := alex.screen()
	for _, hostile := range []string{
		"\x1b[2J\x1b[H", "\x1b[10A", "\x1b[1;1H", "\x1b]0;owned\x07", "\x1bc", "\x1b[?1049h", "\u009b2J", "\x1b[8m", "\x1b(0",
		"\r", "\b\b\b", "\v\v", "\f", "\u0085", "\u2028", "\u202e", "\x1bPq\x1b\\", "e" + strings.Repeat("\u0301", 12),
	} {
		tim.say("<" + hostile + ">")
		var got []string
		alex.until("one line more, and the others as they were", func(screen []string) bool {
			got = screen
			return len(screen) == len(want)+1 && slices.Equal(screen[:len(want)], want) &&
				strings.HasPrefix(screen[len(want)], "TIME Tim@HOST: <") && strings.HasSuffix(screen[len(want)], ">")
		})
		want = got
	}
	tim.say("after")
	want = append(want, "TIME Tim@HOST: after")
	alex.until("the screen as it was", func(screen []string) bool { return slices.Equal(screen, want) })
}

func TestStoppedScreenDelaysNoTyping(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	alex.presses("C-s") // the terminal takes no output from here on
	for range 50 {
		tim.say(strings.Repeat("blah ", 200))
	}
	m := mark(tim)
	alex.enters("still listening")
	tim.sees(patience, at("Alex")+`: still listening$`)
	alex.presses("C-q")
	alex.until("what came meanwhile", func([]string) bool {
		text := alex.tmux("capture-pane", "-p", "-S", "-") // what has scrolled off as well
		return strings.Contains(text, m) && strings.Contains(text, " Alex (me): still listening")
	})
	alex.presses("C-s")
	tim.say("more")
	alex.enters("/exit")
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	alex.presses("C-q") // what is still to be printed may be waited for
	if status := alex.ended(); status != "0" {
		t.Errorf("exit status %s, want 0", status)
	}
}

func TestHangUpLeavesInOrder(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	alex.tmux("kill-session") // as when a window is closed
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	if tim.count(`lost$`) != 0 {
		t.Error("Alex is shown as lost")
	}
}

func TestNoEscapesButOnATerminal(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	path := filepath.Join(t.TempDir(), "chat.log")
	alex := terminalNode(t, port, "Alex", `> '`+path+`'`)
	tim.sees(patience, at("Alex")+` joined$`)
	alex.enters("from the keyboard")
	tim.sees(patience, at("Alex")+`: from the keyboard$`)
	tim.say("from a pipe")
	alex.presses("C-d")
	if status := alex.ended(); status != "0" {
		t.Errorf("exit status %s, want 0", status)
	}
	got, err := os.ReadFile(path)
	must(t, err)
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	for _, l := range lines {
		if !grammar.MatchString(l) || unclean(l) != "" {
			t.Errorf("line outside the grammar: %q", l)
		}
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, " Alex (me): from the keyboard") }) {
		t.Errorf("the file holds %q, without one's own line", lines)
	}
	for _, p := range []*proc{tim} {
		if strings.ContainsRune(p.out.String()+p.err.String(), '\x1b') {
			t.Errorf("%s prints an escape", p.name)
		}
	}
	tim.signal(syscall.SIGTERM)
	ends(tim, patience, 0)
}
