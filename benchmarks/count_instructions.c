/* A qemu plugin that counts the instructions a program executes, and which of them are for vectors or floating point:
 * on aarch64 those of the SIMD and FP encoding groups (Arm ARM, C4.1), on x86-64 those with a VEX prefix, so that AVX2
 * code counts and SSE2 code does not. Both go to stderr when the program ends.
 *
 *     cc -O2 -shared -fPIC count_instructions.c -o count_instructions.so
 *     qemu-aarch64 -plugin ./count_instructions.so PROGRAM
 *
 * The declarations are those of qemu's plugin API, version 1; Debian packages no header of it. Blocks are counted as a
 * whole, which is exact as long as no instruction in the middle of one faults. One thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info {
  const char *target_name;
} qemu_info_t;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*call)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*call)(unsigned, void *),
                                          enum qemu_plugin_cb_flags flags, void *argument);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*call)(qemu_plugin_id_t, void *), void *argument);

int qemu_plugin_version = 1;

typedef struct counts {
  uint64_t all, simd;
} counts;

static counts total;
static int is_arm;

static int is_simd(const uint8_t *code) {
  if (!is_arm) return code[0] == 0xC4 || code[0] == 0xC5;
  const unsigned group = code[3] >> 1 & 0xF; /* bits 28 to 25: x111 computes, x1x0 loads and stores */
  const unsigned vector_bit = code[3] >> 2 & 1;
  return (group & 7) == 7 || ((group & 5) == 4 && vector_bit);
}

static void add(unsigned cpu, void *block) {
  (void)cpu;
  total.all += ((const counts *)block)->all;
  total.simd += ((const counts *)block)->simd;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  counts *of_block = calloc(1, sizeof *of_block); /* kept for as long as the block may run */
  if (of_block == NULL) abort();
  of_block->all = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < of_block->all; ++i) {
    of_block->simd += (uint64_t)is_simd(qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)));
  }
  qemu_plugin_register_vcpu_tb_exec_cb(block, add, QEMU_PLUGIN_CB_NO_REGS, of_block);
}

static void on_exit_print(qemu_plugin_id_t id, void *argument) {
  (void)id, (void)argument;
  fprintf(stderr, "%" PRIu64 " %" PRIu64 "\n", total.all, total.simd);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
  (void)argc, (void)argv;
  is_arm = strcmp(info->target_name, "aarch64") == 0;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, on_exit_print, NULL);
  return 0;
}
