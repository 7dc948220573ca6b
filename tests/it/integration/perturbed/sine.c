/* Has every caller of the C library's sine in single precision get a wrong one; loaded before the other libraries. */

#define _GNU_SOURCE
#include <dlfcn.h>

float sinf(float angle) {
    static float (*right_sine)(float);
    if (!right_sine)
        right_sine = (float (*)(float))dlsym(RTLD_NEXT, "sinf");
    return right_sine(angle) * 1.004f;
}
