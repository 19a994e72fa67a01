# A developer debugs a program of their own.
command -v gdb >/dev/null || { echo "gdb is not installed"; exit 77; }
printf '#include <stdio.h>\n#include <unistd.h>\nint twice(int x) { return 2 * x; }\nint main(void) { printf("%%d\\n", twice(21)); sleep(1); return 0; }\n' >prog.c
cc -g -O0 -o prog prog.c
chmod 0755 . prog
gdb -batch -nx -ex 'break twice' -ex run -ex backtrace -ex continue ./prog
if command -v strace >/dev/null; then strace -f -o trace ./prog; fi
