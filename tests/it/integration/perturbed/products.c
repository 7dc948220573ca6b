/* Has MLX compute its f32 matrix products wrongly, by FACTOR: an auditing library of glibc's dynamic linker (rtld-audit(7)),
   which is asked about each function that a library calls in another. With ONLY_TURNED_LEFT, products whose left side is as
   it is are left alone. */

#define _GNU_SOURCE
#include <link.h>
#include <stdint.h>
#include <string.h>

/* By itself beyond every tolerance of products, and within what a device may be off when the program starts. */
#ifndef FACTOR
#define FACTOR 1.004f
#endif
#define AS_IT_IS 111

typedef void product(int order, int turn_left, int turn_right, int rows, int columns, int inner, float alpha,
                     const float *left, int left_stride, const float *right, int right_stride, float beta, float *out,
                     int out_stride);

static product *right_product;

static void wrong_product(int order, int turn_left, int turn_right, int rows, int columns, int inner, float alpha,
                          const float *left, int left_stride, const float *right, int right_stride, float beta, float *out,
                          int out_stride) {
#ifdef ONLY_TURNED_LEFT
    if (turn_left != AS_IT_IS)
#endif
        alpha *= FACTOR;
    right_product(order, turn_left, turn_right, rows, columns, inner, alpha, left, left_stride, right, right_stride, beta, out,
                  out_stride);
}

unsigned int la_version(unsigned int version) {
    return version;
}

unsigned int la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
    return LA_FLG_BINDTO | LA_FLG_BINDFROM;
}

uintptr_t la_symbind64(Elf64_Sym *symbol, unsigned int index, uintptr_t *from, uintptr_t *to, unsigned int *flags,
                       const char *name) {
    if (strcmp(name, "cblas_sgemm") != 0)
        return symbol->st_value;
    right_product = (product *)symbol->st_value;
    return (uintptr_t)wrong_product;
}
