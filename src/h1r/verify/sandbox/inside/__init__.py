"""What runs inside the sandbox: standard library only, started as `inside` from a read-only mount, never from h1r.

server   the fork-server: one request, one test, one fresh process (two for asserts)
jail     the inner wall of each test: namespaces, uid, capabilities, rlimits, Landlock, seccomp
walls    the outer wall of the native backend: namespaces and a new root, through ctypes
seccomp  the system calls a test may not make
drive    Python candidates: as a program, as a function
rpc      asserts: the candidate behind a link, and the tester that calls it
official a candidate the way LiveCodeBench's grader runs it
files    what comes with a program and what is wanted back
remote   a call or asserts where only stdin and stdout reach the machine
plain    values to JSON and back, rebuilt from exact builtin types
"""
