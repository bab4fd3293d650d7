// Calls the doors of a library for a process of another kind of processor, which is asked over
// standard input and answers over standard output: `door_server LIBRARY`. See
// tests/aarch64/emulated.py.
//
// All numbers are int64. A request: the door (0: forward, 1: backward), the size of its record, the
// record, the number of buffers, and for each its place in the record, whether its content goes
// back, its size and its content. The answer: the door's status, then the contents that go back.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "abi.h"

namespace {

void fail(const char* what) {
  fprintf(stderr, "door_server: %s\n", what);
  exit(1);
}
// Whether there was anything to read.
bool read(void* to, size_t size) {
  const size_t got = fread(to, 1, size, stdin);
  if (got != size && got) fail("a request ends early");
  return got == size;
}
void need(void* to, size_t size) {
  if (size && !read(to, size)) fail("a request ends early");
}
int64_t number() {
  int64_t value;
  need(&value, sizeof value);
  return value;
}
void write(const void* from, size_t size) {
  if (fwrite(from, 1, size, stdout) != size) fail("the answer can't be written");
}

struct Buffer {
  bool goes_back;
  int64_t size;
  std::unique_ptr<char[]> content;
};

using Door = int64_t (*)(const gatv2::Arguments*, int64_t isa);

}  // namespace

int main(int count, char** words) {
  if (count != 2) fail("expected the path of a library");
  void* const library = dlopen(words[1], RTLD_NOW);
  if (!library) fail(dlerror());
  Door doors[2];
  const char* const names[] = {"gatv2_forward", "gatv2_backward"};
  for (int k = 0; k < 2; ++k) {
    doors[k] = (Door)dlsym(library, names[k]);
    if (!doors[k]) fail(dlerror());
  }
  int64_t door;
  while (read(&door, sizeof door)) {
    if (door < 0 || door > 1) fail("no such door");
    gatv2::Arguments args;
    if (number() != (int64_t)sizeof args) fail("the record is of another size");
    need(&args, sizeof args);
    std::vector<Buffer> buffers(number());
    for (Buffer& buffer : buffers) {
      const int64_t place = number();
      if (place < 0 || place + sizeof(void*) > sizeof args) fail("a place outside of the record");
      buffer.goes_back = number();
      buffer.size = number();
      buffer.content.reset(new char[buffer.size]);
      need(buffer.content.get(), buffer.size);
      void* const content = buffer.content.get();
      memcpy((char*)&args + place, &content, sizeof content);
    }
    const int64_t status = doors[door](&args, 0);
    write(&status, sizeof status);
    for (const Buffer& buffer : buffers)
      if (buffer.goes_back) write(buffer.content.get(), buffer.size);
    fflush(stdout);
  }
}
