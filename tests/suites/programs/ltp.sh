#!/bin/bash
# ltp.sh LTP: LTP's tests of memory, as its runtest files have them; LTP is where it was built. Each
# says "ok", "not ok" or "left out" with its name. What runs for a set time has a twentieth of it.
# Not run: what fills the machine's memory or sets it up, and what malloc() has no part in.
set -eu
export LTPROOT=$1 LTP_RUNTIME_MUL=0.05 TMPDIR=$PWD

calls='brk|clone|fork|madvise|mallinfo|mallopt|memfd_create|mincore|mlock|mmap|mprotect|mremap'
calls="$calls|mseal|msync|munlock|munmap|process_madvise|sbrk"
others='mtest01|oom|swapping|overcommit|min_free|max_map|ksm|thp|cpuset|kallsyms|shm_test'
others="$others|vma05|mmapstress07|mmap21"
kernel=$1/testcases/kernel

{
	grep -E "^($calls)(all)?[0-9_]* " "$1/runtest/syscalls"
	grep -E '^[a-z]' "$1/runtest/mm" | grep -Ev "^($others)"
} >tests
while read -r name program options; do
	path=$(find "$kernel/mem" "$kernel/syscalls" -type f -name "$program" -perm -u+x -print -quit)
	status=0
	# shellcheck disable=SC2086
	PATH=$(dirname "$path"):$PATH SOM_TAKE=$program timeout 120 "$path" $options </dev/null ||
		status=$?
	case $status in
	0) echo "ok $name" ;;
	32) echo "left out $name" ;;
	*) echo "not ok $name" ;;
	esac
done <tests
echo "ok the end"
