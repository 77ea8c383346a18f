/* SPDX-License-Identifier: BSD-3-Clause
 * The handwritten digits, and files that NumPy, PyTorch and `fusedbn run` read.
 */
#ifndef DIGITS_DATA_H
#define DIGITS_DATA_H

#include <stddef.h>
#include <stdint.h>

enum { DIGITS_PIXELS = 64, DIGITS_CLASSES = 10 };

/* Images and what they show. */
struct digits {
    int64_t count;
    float *pixels;   /* [count, DIGITS_PIXELS], 0 (paper) to 1 (ink) */
    int64_t *labels; /* [count], 0 to 9 */
};

/* A tensor of float or of int64_t to be written to a file. */
struct file_tensor {
    char name[32];
    char dtype[4]; /* "F32" or "I64" */
    int ndim;      /* 0 to 2 */
    int64_t shape[2];
    const void *data;
};

/* Returns the next of a sequence of well-mixed 64-bit numbers (splitmix64: Steele, Lea and Flood,
 * OOPSLA 2014). *state, any value, is the seed. */
uint64_t random_bits(uint64_t *state);

/* Returns a number from 0 (included) to 1 (excluded), of 53 bits. */
double random_unit(uint64_t *state);

/* Puts count numbers into an order in which every permutation is equally likely. */
void random_permutation(int64_t *order, int64_t count, uint64_t *state);

/*
 * The functions below return 0; or -1, with the reason on stderr.
 */

/* Reads lines of 64 pixels from 0 to 16 and a label, separated by commas. digits_free() frees. */
int digits_read(struct digits *digits, const char *path);

/* Shuffles, then moves the last `count` images into *held_out. */
int digits_hold_out(struct digits *digits, struct digits *held_out, int64_t count, uint64_t *state);

void digits_free(struct digits *digits);

/* Write to a temporary name and rename: a failure leaves an older file whole. */
int npy_write(const char *path, const struct file_tensor *tensor);
int safetensors_write(const char *path, const struct file_tensor *tensors, size_t count);

#endif
