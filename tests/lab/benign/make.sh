# A C project of forty files, built with sixteen jobs at a time, tested and installed.
mkdir -p src
for number in $(seq 1 40); do
    printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint part_%s(int x) { return x + %s; }\n' \
        "$number" "$number" >"src/part_$number.c"
done
printf '#include <stdio.h>\nint part_1(int);\nint main(void) { printf("%%d\\n", part_1(1)); return 0; }\n' >src/main.c
printf 'OBJECTS := $(patsubst %%.c,%%.o,$(wildcard src/*.c))\nall: prog\nprog: $(OBJECTS)\n\tcc -o $@ $^\n%%.o: %%.c\n\tcc -O1 -c -o $@ $<\ninstall: prog\n\tinstall -D prog out/usr/bin/prog\nclean:\n\trm -f $(OBJECTS) prog\n' >Makefile
make -j16
./prog
make install
make clean
