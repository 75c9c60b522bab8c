/* The complex functions that numpy imports from Windows' C runtime and Wine's lacks.

Windows passes them structures where GCC passes `complex`; a long double is a double there.
Names carry a prefix because GCC's own library has functions of the same names inside. */

#include <complex.h>

typedef struct {
    double re, im;
} Double;

typedef struct {
    float re, im;
} Float;

#define FROM_DOUBLE(z) __builtin_complex((z).re, (z).im)

#define FUNCTION(name)                                                                             \
    Double shim_##name(Double z)                                                                   \
    {                                                                                              \
        double complex value = name(FROM_DOUBLE(z));                                               \
        return (Double){creal(value), cimag(value)};                                               \
    }                                                                                              \
    Double shim_##name##l(Double z) { return shim_##name(z); }                                     \
    Float shim_##name##f(Float z)                                                                  \
    {                                                                                              \
        float complex value = name##f(__builtin_complex(z.re, z.im));                              \
        return (Float){crealf(value), cimagf(value)};                                              \
    }

#define REAL_FUNCTION(name)                                                                        \
    double shim_##name(Double z) { return name(FROM_DOUBLE(z)); }                                  \
    double shim_##name##l(Double z) { return name(FROM_DOUBLE(z)); }                               \
    float shim_##name##f(Float z) { return name##f(__builtin_complex(z.re, z.im)); }

FUNCTION(ccos)
FUNCTION(ccosh)
FUNCTION(cexp)
FUNCTION(csin)
FUNCTION(csinh)
FUNCTION(ctan)
FUNCTION(ctanh)
REAL_FUNCTION(cabs)
REAL_FUNCTION(carg)
REAL_FUNCTION(cimag)
REAL_FUNCTION(creal)

Double shim_cpow(Double z, Double w)
{
    double complex value = cpow(FROM_DOUBLE(z), FROM_DOUBLE(w));
    return (Double){creal(value), cimag(value)};
}

Double shim_cpowl(Double z, Double w) { return shim_cpow(z, w); }

Float shim_cpowf(Float z, Float w)
{
    float complex value = cpowf(__builtin_complex(z.re, z.im), __builtin_complex(w.re, w.im));
    return (Float){crealf(value), cimagf(value)};
}
