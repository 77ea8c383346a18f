/* SPDX-License-Identifier: BSD-3-Clause
 * The readers on the fuzzers' corpus (tests/fuzz/corpus, made by tests/fuzz/make_seeds.py): files
 * of NumPy and of safetensors' reference implementation, and files that break one rule each.
 */
#define _XOPEN_SOURCE 700
#include "convert.h"
#include "json_watch.h"
#include "npy.h"
#include "safetensors.h"
#include "tensor_file.h"
#include "test_files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What each bad-* file is refused with. */
static const struct {
    const char *name;
    enum file_status status;
    const char *says; /* a part of the sentence: the offending value */
} bad[] = {
    {"bad-empty.npy", FILE_TRUNCATED, "empty"},
    {"bad-magic.npy", FILE_BAD_MAGIC, "NUMPY"},
    {"bad-magic-short.npy", FILE_TRUNCATED, "after 5 bytes"},
    {"bad-version.npy", FILE_BAD_VERSION, "4.0"},
    {"bad-minor.npy", FILE_BAD_VERSION, "1.1"},
    {"bad-length-short.npy", FILE_TRUNCATED, "header's length"},
    {"bad-header-short.npy", FILE_TRUNCATED, "118 bytes long, but 50 remain"},
    {"bad-length-4gib.npy", FILE_TRUNCATED, "4294967295"},
    {"bad-data-short.npy", FILE_TRUNCATED, "24 bytes, but the file has 23"},
    {"bad-data-long.npy", FILE_TRAILING_BYTES, "1 bytes follow the array of shape [2, 3]"},
    {"bad-no-newline.npy", FILE_BAD_HEADER, "newline"},
    {"bad-brace.npy", FILE_BAD_HEADER, "'[' at byte 0, not '{'"},
    {"bad-unclosed.npy", FILE_BAD_HEADER, "ends where ',' or '}'"},
    {"bad-no-comma.npy", FILE_BAD_HEADER, "not ',' or '}'"},
    {"bad-no-colon.npy", FILE_BAD_HEADER, "not ':'"},
    {"bad-no-value.npy", FILE_BAD_HEADER, "not a string"},
    {"bad-string.npy", FILE_BAD_HEADER, "at byte 12, not the end of a string"},
    {"bad-escape.npy", FILE_BAD_HEADER, "'\\' at byte 11, not the end of a string"},
    {"bad-after-dict.npy", FILE_BAD_HEADER, "'x'"},
    {"bad-key-twice.npy", FILE_DUPLICATE_KEY, "'shape' twice"},
    {"bad-key-unknown.npy", FILE_UNKNOWN_KEY, "'sh\\x1b[2Jape'"},
    {"bad-key-missing.npy", FILE_MISSING_KEY, "'fortran_order'"},
    {"bad-order.npy", FILE_BAD_HEADER, "not True or False"},
    {"bad-descr-unknown.npy", FILE_BAD_DTYPE, "'<f16'"},
    {"bad-descr-object.npy", FILE_BAD_DTYPE, "'|O'"},
    {"bad-descr-no-order.npy", FILE_BAD_DTYPE, "'|f4'"},
    {"bad-descr-native.npy", FILE_BAD_DTYPE, "'=f4'"},
    {"bad-descr-bf16.npy", FILE_BAD_DTYPE, "bfloat16 has no .npy form"},
    {"bad-descr-structured.npy", FILE_BAD_DTYPE, "structured"},
    {"bad-shape-list.npy", FILE_BAD_HEADER, "not a tuple"},
    {"bad-shape-number.npy", FILE_BAD_SHAPE, "(6)"},
    {"bad-shape-negative.npy", FILE_BAD_SHAPE, "negative"},
    {"bad-shape-zero.npy", FILE_BAD_SHAPE, "leading zero"},
    {"bad-shape-comma.npy", FILE_BAD_HEADER, "not ',' or ')'"},
    {"bad-shape-text.npy", FILE_BAD_HEADER, "'x' at byte"},
    {"bad-shape-size.npy", FILE_SIZE_OVERFLOW, "922337203685477580"},
    {"bad-shape-product.npy", FILE_SIZE_OVERFLOW, "[4294967296, 2147483648]"},
    {"bad-shape-product-empty.npy", FILE_SIZE_OVERFLOW, "[4294967296, 4294967296, 0]"},
    {"bad-shape-bytes.npy", FILE_SIZE_OVERFLOW, "[4611686018427387904]"},
    {"bad-shape-wrap.npy", FILE_SIZE_OVERFLOW, "[4611686018427387910]"},
    {"bad-fortran-3d.npy", FILE_UNSUPPORTED, "[1, 2, 3]"},

    {"bad-empty.safetensors", FILE_TRUNCATED, "0 bytes"},
    {"bad-length-short.safetensors", FILE_TRUNCATED, "7 bytes"},
    {"bad-header-short.safetensors", FILE_TRUNCATED, "61 bytes long, but 32 remain"},
    {"bad-length-huge.safetensors", FILE_HEADER_TOO_LARGE, "9223372036854775878"},
    {"bad-length-above-limit.safetensors", FILE_HEADER_TOO_LARGE, "100000001"},
    {"bad-length-zero.safetensors", FILE_BAD_HEADER, "begin with '{'"},
    {"bad-header-start.safetensors", FILE_BAD_HEADER, "begin with '{'"},
    {"bad-header-list.safetensors", FILE_BAD_HEADER, "begin with '{'"},
    {"bad-header-newline.safetensors", FILE_BAD_HEADER, "end in '}'"},
    {"bad-header-nul.safetensors", FILE_BAD_HEADER, "end in '}'"},
    {"bad-json.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-json-after.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-json-depth.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-json-number.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-utf8.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-surrogate.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-nul-in-name.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-tensor-twice.safetensors", FILE_DUPLICATE_KEY, "\"a\""},
    {"bad-key-twice.safetensors", FILE_DUPLICATE_KEY, "\"dtype\""},
    {"bad-metadata-list.safetensors", FILE_BAD_METADATA, "__metadata__"},
    {"bad-metadata-number.safetensors", FILE_BAD_METADATA, "'a'"},
    {"bad-metadata-null.safetensors", FILE_BAD_METADATA, "__metadata__"},
    {"bad-entry-list.safetensors", FILE_BAD_HEADER, "'a'"},
    {"bad-dtype-missing.safetensors", FILE_MISSING_KEY, "'dtype'"},
    {"bad-shape-missing.safetensors", FILE_MISSING_KEY, "'shape'"},
    {"bad-offsets-missing.safetensors", FILE_MISSING_KEY, "'data_offsets'"},
    {"bad-key-unknown.safetensors", FILE_UNKNOWN_KEY, "'a'"},
    {"bad-dtype-unknown.safetensors", FILE_BAD_DTYPE, "'F33'"},
    {"bad-dtype-number.safetensors", FILE_BAD_DTYPE, "no string"},
    {"bad-shape-number.safetensors", FILE_BAD_SHAPE, "no list"},
    {"bad-shape-real.safetensors", FILE_BAD_SHAPE, "integers"},
    {"bad-shape-negative.safetensors", FILE_BAD_SHAPE, "-2"},
    {"bad-shape-size.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-shape-product.safetensors", FILE_SIZE_OVERFLOW, "[4294967296, 2147483648]"},
    {"bad-shape-product-empty.safetensors", FILE_SIZE_OVERFLOW, "[0, 4294967296, 4294967296]"},
    {"bad-shape-bytes.safetensors", FILE_SIZE_OVERFLOW, "[2305843009213693952]"},
    {"bad-shape-half-byte.safetensors", FILE_SIZE_OVERFLOW, "F4"},
    {"bad-offsets-one.safetensors", FILE_BAD_OFFSETS, "not two"},
    {"bad-offsets-three.safetensors", FILE_BAD_OFFSETS, "not two"},
    {"bad-offsets-real.safetensors", FILE_BAD_OFFSETS, "integers"},
    {"bad-offsets-negative.safetensors", FILE_BAD_OFFSETS, "[-8, 0]"},
    {"bad-offsets-reversed.safetensors", FILE_BAD_OFFSETS, "[8, 0]"},
    {"bad-offsets-2to64.safetensors", FILE_BAD_HEADER, "JSON"},
    {"bad-offsets-beyond.safetensors", FILE_TRUNCATED, "byte 16 of the data, but the file has 8"},
    {"bad-size-less.safetensors", FILE_SIZE_MISMATCH, "has 4 bytes, but data_offsets [0, 8]"},
    {"bad-size-more.safetensors", FILE_SIZE_MISMATCH, "has 12 bytes, but data_offsets [0, 8]"},
    {"bad-hole-first.safetensors", FILE_HOLE, "byte 1 of the data"},
    {"bad-hole.safetensors", FILE_HOLE, "'b' begins at byte 4"},
    {"bad-overlap.safetensors", FILE_OVERLAP, "before byte 5, where tensor 'a' ends"},
    {"bad-overlap-same.safetensors", FILE_OVERLAP, "before byte 8, where tensor 'a' ends"},
    {"bad-trailing.safetensors", FILE_TRAILING_BYTES, "1 bytes"},
    {"bad-trailing-nothing.safetensors", FILE_TRAILING_BYTES, "1 bytes"},
    {"bad-name-escape.safetensors", FILE_SIZE_MISMATCH, "'a\\x1b[2J\\x9b'"},
};

#define BAD_COUNT ((int)(sizeof bad / sizeof bad[0]))
#define OK_COUNT 31 /* the ok-* files in the corpus: none is forgotten */

static const char *const directories[] = {"npy", "safetensors"};

static void corpus_path(char *path, size_t size, const char *directory, const char *name)
{
    const char *srcdir = getenv("srcdir");

    snprintf(path, size, "%s/tests/fuzz/corpus/%s/%s", srcdir != NULL ? srcdir : ".", directory,
             name);
}

/* Calls visit for each file of the corpus whose name begins with prefix; returns their number. */
static int for_each(const char *prefix, void (*visit)(const char *path, const char *name))
{
    int count = 0;

    for (int d = 0; d < 2; d++) {
        char path[4096];
        DIR *directory;
        struct dirent *entry;

        corpus_path(path, sizeof path, directories[d], "");
        directory = opendir(path);
        ck_assert_msg(directory != NULL, "%s: no such directory", path);
        while ((entry = readdir(directory)) != NULL) {
            if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0) {
                corpus_path(path, sizeof path, directories[d], entry->d_name);
                visit(path, entry->d_name);
                count++;
            }
        }
        closedir(directory);
    }
    return count;
}

static void refuse(const char *path, const char *name)
{
    struct tensor_set set;
    struct file_error err = {FILE_OK, ""};
    enum file_status status = tensor_file_read(path, &set, &err);

    for (int i = 0; i < BAD_COUNT; i++) {
        if (strcmp(bad[i].name, name) == 0) {
            ck_assert_msg(status == bad[i].status, "%s: status %d: %s", name, status, err.text);
            ck_assert_msg(strstr(err.text, bad[i].says) != NULL, "%s: %s", name, err.text);
            ck_assert_int_eq(err.status, status);
            ck_assert(set.tensors == NULL && set.bytes == NULL && set.metadata == NULL);
            return;
        }
    }
    ck_abort_msg("%s is in the corpus, but not in the table", name);
}

START_TEST(bad_files_are_refused)
{
    ck_assert_int_eq(for_each("bad-", refuse), BAD_COUNT);
}
END_TEST

/* Lays the set out again, in the format of the name. */
static unsigned char *write_again(const struct tensor_set *set, const char *name, size_t *size)
{
    struct pieces pieces;
    struct file_error err;
    unsigned char *bytes;

    if (file_format(name) == FORMAT_NPY) {
        ck_file_ok(npy_layout(&set->tensors[0], &pieces, &err), err);
    } else {
        ck_file_ok(safetensors_layout(set, &pieces, &err), err);
    }
    bytes = join_pieces(&pieces, size);
    pieces_free(&pieces);
    return bytes;
}

static size_t data_size(const struct tensor_set *set)
{
    size_t size = 0;

    for (size_t i = 0; i < set->count; i++) {
        size += set->tensors[i].nbytes;
    }
    return size;
}

static void accept_and_write(const char *path, const char *name)
{
    struct tensor_set set;
    struct file_error err;
    unsigned char *bytes;
    size_t size;

    ck_assert_msg(tensor_file_read(path, &set, &err) == FILE_OK, "%s: %s", name, err.text);
    bytes = write_again(&set, name, &size);
    if (strncmp(name, "ok-same-", 8) == 0) {
        FILE *file = fopen(path, "rb");
        unsigned char *original = malloc(size + 1);

        ck_assert(file != NULL && original != NULL);
        ck_assert_msg(fread(original, 1, size + 1, file) == size &&
                          memcmp(original, bytes, size) == 0,
                      "%s: written again, it is another file", name);
        fclose(file);
        free(original);
    }
    /* The header ends where alignment begins. */
    ck_assert_uint_eq((size - data_size(&set)) % (file_format(name) == FORMAT_NPY ? 64 : 8), 0);
    free(bytes);
    tensor_set_free(&set);
}

START_TEST(good_files_are_accepted_and_written_alike)
{
    ck_assert_int_eq(for_each("ok-", accept_and_write), OK_COUNT);
}
END_TEST

/* Parses the first size bytes of the file in a buffer of just that size. */
static enum file_status parse_prefix(const char *name, const unsigned char *bytes, size_t size,
                                     struct file_error *err)
{
    unsigned char *copy = malloc(size > 0 ? size : 1);
    struct tensor_set set = {0};
    struct tensor tensor = {0};
    enum file_status status;

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, bytes, size);
    status = file_format(name) == FORMAT_NPY ? npy_parse(copy, size, &tensor, err)
                                             : safetensors_parse(copy, size, &set, err);
    tensor_free(&tensor);
    tensor_set_free(&set);
    free(copy);
    return status;
}

static void refuse_prefixes(const char *path, const char *name)
{
    FILE *file = fopen(path, "rb");
    unsigned char bytes[2048];
    size_t size;
    struct file_error err;

    ck_assert_ptr_nonnull(file);
    size = fread(bytes, 1, sizeof bytes, file);
    ck_assert_uint_lt(size, sizeof bytes);
    fclose(file);
    ck_assert_int_eq(parse_prefix(name, bytes, size, &err), FILE_OK);
    for (size_t n = 0; n < size; n++) {
        enum file_status status = parse_prefix(name, bytes, n, &err);

        ck_assert_msg(status == FILE_TRUNCATED, "%s cut to %zu bytes: status %d", name, n, status);
    }
}

START_TEST(a_file_cut_anywhere_is_refused)
{
    ck_assert_int_eq(for_each("ok-", refuse_prefixes), OK_COUNT);
}
END_TEST

static void read_any(const char *path, const char *name)
{
    struct tensor_set set;
    struct file_error err = {FILE_OK, ""};
    enum file_status status = tensor_file_read(path, &set, &err);

    (void)name;
    ck_assert(status == FILE_OK || (status == err.status && err.text[0] != '\0'));
    tensor_set_free(&set);
}

START_TEST(what_fuzzing_found_is_taken)
{
    ck_assert_int_ge(for_each("found-", read_any), 1);
}
END_TEST

/* Files of np.arange(6).reshape(2, 3) in several types, orders and spellings. */
static const struct {
    const char *name;
    enum dtype dtype;
} aranges[] = {
    {"ok-same-f8.npy", DT_F64},    {"ok-same-f4.npy", DT_F32},
    {"ok-same-f2.npy", DT_F16},    {"ok-same-i8.npy", DT_I64},
    {"ok-same-i4.npy", DT_I32},    {"ok-same-u1.npy", DT_U8},
    {"ok-big-endian.npy", DT_F32}, {"ok-big-endian-f8.npy", DT_F64},
    {"ok-fortran.npy", DT_F32},    {"ok-fortran-big-endian.npy", DT_I16},
    {"ok-version2.npy", DT_F32},   {"ok-version3.npy", DT_F32},
    {"ok-spelling.npy", DT_F32},   {"ok-same-one.safetensors", DT_F32},
};

START_TEST(values_are_right)
{
    char path[4096];
    struct tensor_set set;
    struct file_error err;
    double values[6];
    const struct tensor *t;

    corpus_path(path, sizeof path, strstr(aranges[_i].name, ".npy") ? "npy" : "safetensors",
                aranges[_i].name);
    ck_file_ok(tensor_file_read(path, &set, &err), err);
    ck_assert_uint_eq(set.count, 1);
    t = &set.tensors[0];
    ck_assert_int_eq(t->dtype, aranges[_i].dtype);
    ck_assert(t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 3);
    ck_assert_uint_eq(t->nbytes, 6 * dtype_bits(t->dtype) / 8);
    convert_elements(t->data, t->dtype, values, DT_F64, 6);
    for (int i = 0; i < 6; i++) {
        ck_assert_double_eq(values[i], i);
    }
    tensor_set_free(&set);
}
END_TEST

START_TEST(tensors_are_found_where_they_lie)
{
    char path[4096];
    struct tensor_set set;
    struct file_error err;
    const struct tensor *t;

    corpus_path(path, sizeof path, "safetensors", "ok-any-order.safetensors");
    ck_file_ok(tensor_file_read(path, &set, &err), err);
    ck_assert_uint_eq(set.count, 3);
    t = tensor_set_find(&set, "b"); /* the data are the bytes 0 to 7 */
    ck_assert(t != NULL && t->dtype == DT_F32 && t->ndim == 1 && t->data[0] == 4);
    t = tensor_set_find(&set, "a");
    ck_assert(t != NULL && t->ndim == 0 && t->nbytes == 4 && t->data[0] == 0);
    t = tensor_set_find(&set, "e");
    ck_assert(t != NULL && t->ndim == 2 && t->shape[1] == 5 && t->nbytes == 0);
    ck_assert_ptr_null(tensor_set_find(&set, "c"));
    tensor_set_free(&set);
}
END_TEST

/* The status is FILE_OUT_OF_MEMORY where an allocation of Jansson's was made to fail, whichever it
 * was, and FILE_OK where none was; returns whether one was. */
static bool has_failed(enum file_status status, const char *name, const struct file_error *err)
{
    bool failed = json_watch_allowed < 0;

    json_watch_allowed = -1;
    ck_assert_msg(status == (failed ? FILE_OUT_OF_MEMORY : FILE_OK), "%s: status %d: %s", name,
                  status, status != FILE_OK ? err->text : "a failure was not noticed");
    return failed;
}

static void fail_each_allocation(const char *path, const char *name)
{
    struct tensor_set set = {0};
    struct pieces pieces = {0};
    struct file_error err;
    enum file_status status;
    long n = 0;

    do {
        tensor_set_free(&set);
        json_watch_allowed = n++;
        status = tensor_file_read(path, &set, &err);
    } while (has_failed(status, name, &err));
    n = 0;
    do {
        pieces_free(&pieces);
        json_watch_allowed = n++;
        status = safetensors_layout(&set, &pieces, &err);
    } while (has_failed(status, name, &err));
    pieces_free(&pieces);
    tensor_set_free(&set);
}

START_TEST(jansson_out_of_memory_is_noticed)
{
    char path[4096];
    const char *const names[] = {"ok-same-metadata.safetensors", "ok-same-names.safetensors",
                                 "ok-same-dtypes.safetensors"};

    corpus_path(path, sizeof path, "safetensors", names[_i]);
    fail_each_allocation(path, names[_i]);
}
END_TEST

Suite *corpus_suite(void)
{
    Suite *suite = suite_create("file readers and writers");
    TCase *tcase = tcase_create("corpus");

    tcase_add_test(tcase, bad_files_are_refused);
    tcase_add_test(tcase, good_files_are_accepted_and_written_alike);
    tcase_add_test(tcase, a_file_cut_anywhere_is_refused);
    tcase_add_test(tcase, what_fuzzing_found_is_taken);
    tcase_add_loop_test(tcase, values_are_right, 0, sizeof aranges / sizeof aranges[0]);
    tcase_add_test(tcase, tensors_are_found_where_they_lie);
    tcase_add_loop_test(tcase, jansson_out_of_memory_is_noticed, 0, 3);
    suite_add_tcase(suite, tcase);
    return suite;
}
