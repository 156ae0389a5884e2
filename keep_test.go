package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Twenty times what they may keep passes through nodes that all speak at
// once: none of them prints less than all, or holds more than it should.
func TestSmallKeepLosesNothingOnTheWay(t *testing.T) {
	t.Parallel()
	lines, within := 110_000, 60*time.Second
	if raced() {
		lines = 8_000 // seven times the memory and the time
	}
	port := freePort(t)
	var nodes []*proc
	for _, name := range []string{"Ann", "Bob", "Cid", "Log"} {
		nodes = append(nodes, startNode(t, port, []string{"-keep", "1MiB", name}))
	}
	for _, p := range nodes {
		p.seesCount(within, len(nodes)-1, ` joined$`)
	}
	var wg sync.WaitGroup
	for _, p := range nodes[:3] {
		var text strings.Builder
		for i := range lines {
			fmt.Fprintf(&text, "%s counts %06d and so on and so forth to sixty bytes\n", p.name, i)
		}
		wg.Go(func() { p.in.Write([]byte(text.String())) }) // what is missing is seen below
	}
	wg.Wait()
	for _, p := range nodes {
		if err := p.out.waitFor(within, func(text []byte) bool {
			return bytes.Count(text, []byte(" counts ")) == 3*lines
		}); err != nil {
			t.Errorf("%s shows %d of %d lines: %v", p.name, strings.Count(p.out.String(), " counts "), 3*lines, err)
		}
		next := map[string]int{}
		rx := regexp.MustCompile(`: (\w+) counts (\d+)`)
		for _, m := range rx.FindAllStringSubmatch(p.out.String(), -1) {
			if n, _ := strconv.Atoi(m[2]); n != next[m[1]] {
				t.Fatalf("%s shows line %d of %s where %d should be", p.name, n, m[1], next[m[1]])
			}
			next[m[1]]++
		}
		if kb := peakMemory(p); kb > 33<<10 && !raced() {
			t.Errorf("%s took %d kB of memory at its peak, want at most 33 MiB", p.name, kb)
		}
	}
}

// peakMemory returns the most memory that p ever held in kB, or 0 where the
// system doesn't tell.
func peakMemory(p *proc) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if m := regexp.MustCompile(`VmHWM:\s+(\d+)`).FindSubmatch(b); m != nil {
		kb, _ := strconv.Atoi(string(m[1]))
		return kb
	}
	return 0
}
