//! What several families work on.

/// The setup of a project of a dozen files in C in `p/`, with a library, a program, generated code and a test.
pub const PROJECT: &str = r#"
mkdir p && cd p
for i in 1 2 3 4 5 6 7 8 9 10; do
  printf '#include "all.h"\n#include <stdio.h>\n#include <string.h>\nint f%d(int x) { char b[64]; snprintf(b, sizeof b, "%%d", x); return x * %d + (int)strlen(b); }\n' $i $i > f$i.c
  printf 'int f%d(int x);\n' $i >> all.h
done
cat > main.c <<'END'
#include <stdio.h>
#include "all.h"
#include "generated.h"
int main(void) { printf("%d %s\n", f1(1)+f2(2)+f3(3)+f4(4)+f5(5)+f6(6)+f7(7)+f8(8)+f9(9)+f10(10), GENERATED); return 0; }
END
cat > Makefile <<'END'
OBJECTS = $(patsubst %.c,%.o,$(wildcard f*.c))
CFLAGS = -O2 -g -ffile-prefix-map=$(CURDIR)=.
all: program test
generated.h: all.h
	printf '#define GENERATED "%s"\n' "$$(cksum < all.h)" > $@
main.o: generated.h
$(OBJECTS): all.h
lib.a: $(OBJECTS)
	rm -f $@; ar rcsD $@ $(sort $^)
program: main.o lib.a
	$(CC) -o $@ $^
test: program
	./program > $@.out; test -s $@.out; touch $@
clean:
	rm -f *.o lib.a program test test.out generated.h
END
cd .."#;
