/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reproducible random numbers for the tests. See draws.h.
 */
#include "draws.h"

/* splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"). */
uint64_t draw_bits(draws *d)
{
    uint64_t z = d->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

draws draws_named(uint64_t seed, const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    draws d = {hash};
    d.state = draw_bits(&d) ^ seed;
    return d;
}

double draw_uniform(draws *d, double low, double high)
{
    return low + (high - low) * ((double)(draw_bits(d) >> 11) * 0x1p-53);
}

int64_t draw_integer(draws *d, int64_t low, int64_t high)
{
    return low + (int64_t)(draw_bits(d) % (uint64_t)(high - low + 1));
}

double draw_normal(draws *d)
{
    double sum = -6;
    for (int k = 0; k < 12; k++)
        sum += draw_uniform(d, 0, 1);
    return sum;
}
