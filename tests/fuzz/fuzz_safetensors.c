/* SPDX-License-Identifier: BSD-3-Clause
 * Fuzz target: the safetensors reader, and the round trip of what it accepts.
 */
#include "fuzz_common.h"
#include "safetensors.h"

/* libFuzzer's own mutation, which the mutator below applies to a part of the input. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/*
 * Blind mutation breaks the length that precedes the header, and so hardly ever reaches the JSON
 * and the data. Three times in four, the header alone is mutated and its length put right.
 */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    uint64_t header = 0;
    size_t tail, room;
    uint8_t *copy;

    for (int i = 7; i >= 0 && size >= 8; i--) {
        header = header << 8 | data[i];
    }
    if (seed % 4 == 0 || size < 8 || header > size - 8 || max_size < size) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    tail = size - 8 - (size_t)header;
    room = max_size - 8 - tail;
    copy = malloc(tail + 1);
    FUZZ_CHECK(copy != NULL);
    memcpy(copy, data + 8 + header, tail);
    header = LLVMFuzzerMutate(data + 8, (size_t)header, room);
    memcpy(data + 8 + header, copy, tail);
    free(copy);
    for (int i = 0; i < 8; i++) {
        data[i] = (uint8_t)(header >> (8 * i));
    }
    return 8 + (size_t)header + tail;
}

static void check_equal_sets(const struct tensor_set *a, const struct tensor_set *b)
{
    FUZZ_CHECK(a->count == b->count && (a->metadata == NULL) == (b->metadata == NULL));
    FUZZ_CHECK(a->metadata == NULL || strcmp(a->metadata, b->metadata) == 0);
    for (size_t i = 0; i < a->count; i++) {
        const struct tensor *other = tensor_set_find(b, a->tensors[i].name);

        FUZZ_CHECK(other != NULL);
        check_equal(&a->tensors[i], other);
    }
}

/* Writes the set and reads it back; the bytes are the caller's. */
static unsigned char *round_trip(const struct tensor_set *set, struct tensor_set *again,
                                 size_t *size)
{
    struct pieces pieces;
    struct file_error err;
    unsigned char *bytes;

    FUZZ_CHECK(safetensors_layout(set, &pieces, &err) == FILE_OK);
    FUZZ_CHECK(pieces.list[0].size % 8 == 0);
    bytes = join(&pieces, size);
    pieces_free(&pieces);
    FUZZ_CHECK(safetensors_parse(bytes, *size, again, &err) == FILE_OK);
    check_equal_sets(set, again);
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tensor_set set, second, third;
    struct file_error err;
    unsigned char *bytes, *same;
    size_t same_size;
    enum file_status status = safetensors_parse(data, size, &set, &err);

    if (status != FILE_OK) {
        check_error(status, &err);
        FUZZ_CHECK(set.tensors == NULL && set.metadata == NULL);
        return 0;
    }
    bytes = round_trip(&set, &second, &size);
    same = round_trip(&second, &third, &same_size); /* the writer's order is settled by now */
    FUZZ_CHECK(size == same_size && memcmp(bytes, same, size) == 0);
    tensor_set_free(&third);
    tensor_set_free(&second);
    tensor_set_free(&set);
    free(same);
    free(bytes);
    return 0;
}
