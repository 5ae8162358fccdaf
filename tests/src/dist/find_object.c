/* gcc's unwinder asks glibc's loader which object an address is in, and takes "none" for an answer: without this a binary that
   is linked with musl dies by SIGABRT, with no word, where it should print a backtrace (RUST_BACKTRACE=1).
   struct dl_find_object of glibc's dlfcn.h, for machines without dlfo_eh_dbase. */
#define _GNU_SOURCE
#include <link.h>
#include <stddef.h>

struct object {
  unsigned long long flags;
  void *start, *end, *map, *eh_frame;
  unsigned long long reserved[7];
};

struct question {
  size_t pc;
  struct object *answer;
};

static int look(struct dl_phdr_info *info, size_t size, void *data)
{
  struct question *question = data;
  size_t eh_frame = 0, start = 0, end = 0;
  (void)size;
  for (size_t i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *header = &info->dlpi_phdr[i];
    size_t at = info->dlpi_addr + header->p_vaddr;
    if (header->p_type == PT_GNU_EH_FRAME)
      eh_frame = at;
    if (header->p_type == PT_LOAD && question->pc - at < header->p_memsz) {
      start = at;
      end = at + header->p_memsz;
    }
  }
  if (!end || !eh_frame)
    return 0;
  question->answer->start = (void *)start;
  question->answer->end = (void *)end;
  question->answer->eh_frame = (void *)eh_frame;
  return 1;
}

int _dl_find_object(void *pc, void *result)
{
  struct question question = { (size_t)pc, result };
  return dl_iterate_phdr(look, &question) ? 0 : -1;
}
