#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes the seeds of the two fuzz targets, which tests/test_files.c reads too.

ok-*  are files as NumPy (2.4.6) and the reference implementation of safetensors (0.8.0) write
      them: the readers accept them and, where the name says "same", the writers give the same bytes.
bad-* break one rule each.

Only needed to make the seeds anew: pip install numpy safetensors; make_seeds.py CORPUS-DIRECTORY
"""
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save

OUT = Path(sys.argv[1])


def put(directory, name, data):
    (OUT / directory).mkdir(parents=True, exist_ok=True)
    (OUT / directory / name).write_bytes(data)


def npy(array, version=None):
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def npy_raw(header, data=b"", version=1):
    """A .npy file around any header text."""
    text = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def npy_dict(descr="'<f4'", order="False", shape="(2, 3)", data=bytes(24)):
    return npy_raw(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", data)


def npy_seeds():
    m = np.arange(6, dtype="<f4").reshape(2, 3)
    for code in ("<f8", "<f4", "<f2", "<i8", "<i4", "|u1", "|b1", "<c8"):
        put("npy", f"ok-same-{code[1:]}.npy", npy(m.astype(code)))
    put("npy", "ok-same-scalar.npy", npy(np.array(2.5)))
    put("npy", "ok-same-vector.npy", npy(m[0]))
    put("npy", "ok-same-empty.npy", npy(np.zeros((0, 3), "<f4")))
    put("npy", "ok-same-4d.npy", npy(m.reshape(1, 2, 3, 1)))
    put("npy", "ok-big-endian.npy", npy(m.astype(">f4")))
    put("npy", "ok-big-endian-f8.npy", npy(m.astype(">f8")))
    put("npy", "ok-fortran.npy", npy(np.asfortranarray(m)))
    put("npy", "ok-fortran-big-endian.npy", npy(np.asfortranarray(m.astype(">i2"))))
    put("npy", "ok-version2.npy", npy(m, (2, 0)))
    put("npy", "ok-version3.npy", npy(m, (3, 0)))
    put("npy", "ok-spelling.npy", npy_raw(
        "{\t\"shape\":(2,3,),'fortran_order' : False,\n'descr':\"<f4\"}   \n", m.tobytes()))

    good = npy(m)
    put("npy", "bad-empty.npy", b"")
    put("npy", "bad-magic.npy", b"\x93NUMPZ" + good[6:])
    put("npy", "bad-magic-short.npy", good[:5])
    put("npy", "bad-version.npy", good[:6] + b"\x04\x00" + good[8:])
    put("npy", "bad-minor.npy", good[:6] + b"\x01\x01" + good[8:])
    put("npy", "bad-length-short.npy", good[:9])
    put("npy", "bad-header-short.npy", good[:60])
    put("npy", "bad-length-4gib.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + good[10:])
    put("npy", "bad-data-short.npy", good[:-1])
    put("npy", "bad-data-long.npy", good + b"\0")
    put("npy", "bad-no-newline.npy", npy_raw(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", m.tobytes()))
    put("npy", "bad-brace.npy", npy_raw("['descr', '<f4']\n"))
    put("npy", "bad-unclosed.npy", npy_raw("{'descr': '<f4', 'fortran_order': False\n"))
    put("npy", "bad-no-comma.npy", npy_raw("{'descr': '<f4' 'fortran_order': False}\n"))
    put("npy", "bad-no-colon.npy", npy_raw("{'descr' '<f4'}\n"))
    put("npy", "bad-no-value.npy", npy_raw("{'descr': }\n"))
    put("npy", "bad-string.npy", npy_raw("{'descr: <f4\n"))
    put("npy", "bad-escape.npy", npy_dict(descr=r"'\x3cf4'"))
    put("npy", "bad-after-dict.npy", npy_raw(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } x\n", m.tobytes()))
    put("npy", "bad-key-twice.npy", npy_raw("{'shape': (1,), 'shape': (2,)}\n"))
    put("npy", "bad-key-unknown.npy", npy_raw("{'shape': (1,), 'sh\x1b[2Jape': (2,)}\n"))
    put("npy", "bad-key-missing.npy", npy_raw("{'descr': '<f4', 'shape': (2, 3), }\n", m.tobytes()))
    put("npy", "bad-order.npy", npy_dict(order="0"))
    put("npy", "bad-descr-unknown.npy", npy_dict(descr="'<f16'"))
    put("npy", "bad-descr-object.npy", npy_dict(descr="'|O'"))
    put("npy", "bad-descr-no-order.npy", npy_dict(descr="'|f4'"))
    put("npy", "bad-descr-native.npy", npy_dict(descr="'=f4'"))
    put("npy", "bad-descr-bf16.npy", npy_dict(descr="'<V2'"))
    put("npy", "bad-descr-structured.npy", npy_dict(descr="[('a', '<f4')]"))
    put("npy", "bad-shape-list.npy", npy_dict(shape="[2, 3]"))
    put("npy", "bad-shape-number.npy", npy_dict(shape="(6)"))
    put("npy", "bad-shape-negative.npy", npy_dict(shape="(-2, 3)"))
    put("npy", "bad-shape-zero.npy", npy_dict(shape="(02, 3)"))
    put("npy", "bad-shape-comma.npy", npy_dict(shape="(2 3)"))
    put("npy", "bad-shape-text.npy", npy_dict(shape="(2, x)"))
    put("npy", "bad-shape-size.npy", npy_dict(shape="(9223372036854775808,)"))
    put("npy", "bad-shape-product.npy", npy_dict(shape="(4294967296, 2147483648)"))
    put("npy", "bad-shape-product-empty.npy", npy_dict(shape="(4294967296, 4294967296, 0)"))
    put("npy", "bad-shape-bytes.npy", npy_dict(shape="(4611686018427387904,)"))
    put("npy", "bad-shape-wrap.npy", npy_dict(shape="(4611686018427387910,)", data=bytes(24)))
    put("npy", "bad-fortran-3d.npy", npy_dict(order="True", shape="(1, 2, 3)"))


def st_raw(header, data=b"", length=None):
    """A safetensors file around any header text."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def st_one(dtype="F32", shape=(2,), offsets=(0, 8), data=bytes(8), name="a", **more):
    entry = {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}
    return st_raw(json.dumps({name: entry}), data)


def st_two(first, second, data):
    def entry(offsets):
        return {"dtype": "U8", "shape": [offsets[1] - offsets[0]], "data_offsets": offsets}

    return st_raw(json.dumps({"a": entry(first), "b": entry(second)}), data)


def safetensors_ok_seeds():
    f4 = np.arange(6, dtype="<f4").reshape(2, 3)
    put("safetensors", "ok-same-one.safetensors", save({"x": f4}))
    put("safetensors", "ok-same-layer.safetensors", save({
        "gemm.weight": f4, "gemm.bias": f4[:, 0].copy(), "scale": np.ones(1, "<f4"),
        "bn.weight": f4[:, 1].copy(), "bn.num_batches_tracked": np.array(7)}))
    put("safetensors", "ok-same-metadata.safetensors",
        save({"x": f4}, {"the \"name\" of a program": "π"}))
    put("safetensors", "ok-same-metadata-alone.safetensors", save({}, {"format": "pt"}))
    put("safetensors", "ok-same-names.safetensors",
        save({"a/\"b\"\\\t": f4[0].copy(), "π·ε": f4[1].copy()}))
    put("safetensors", "ok-same-empty.safetensors", save({"x": np.zeros((0, 3), "<f2"), "y": f4}))
    put("safetensors", "ok-same-nothing.safetensors", save({}))
    kinds = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1", "|b1",
             "<c8"]
    put("safetensors", "ok-same-dtypes.safetensors",
        save({k[1:]: np.arange(3).astype(k) for k in kinds}))
    # NumPy has no such types; the bytes are given.
    raw = np.arange(32, dtype="|u1")
    put("safetensors", "ok-same-narrow.safetensors", safetensors.serialize({
        kind: safetensors.TensorSpec(dtype=kind, shape=[2, 2], data_ptr=raw.ctypes.data,
                                     data_len=8 if kind == "bfloat16" else 4)
        for kind in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")}))

    put("safetensors", "ok-padding.safetensors", st_raw(
        '{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}   ', b"x"))
    put("safetensors", "ok-any-order.safetensors", st_raw(json.dumps({
        "b": {"data_offsets": [4, 8], "shape": [1], "dtype": "F32"},
        "e": {"data_offsets": [4, 4], "shape": [0, 5], "dtype": "I64"},
        "a": {"data_offsets": [0, 4], "shape": [], "dtype": "F32"}}), bytes(range(8))))
    put("safetensors", "ok-sub-byte.safetensors", st_raw(json.dumps({
        "f4": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]},
        "f6": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [3, 6]}}), bytes(6)))


def safetensors_bad_seeds():
    good = st_one()
    brace = '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
    cases = {
        "empty": b"",
        "length-short": good[:7],
        "header-short": good[:40],
        "length-huge": struct.pack("<Q", 2**63 + 70) + good[8:],
        "length-above-limit": struct.pack("<Q", 100000001) + good[8:],
        "length-zero": bytes(8),
        "header-start": st_raw(" " + brace + "}", bytes(8)),
        "header-list": st_raw("[]"),
        "header-newline": st_raw(brace + "}\n", bytes(8)),
        "header-nul": st_raw(brace + "}\0", bytes(8)),
        "json": st_raw(brace[:-1] + ",}}", bytes(8)),
        "json-after": st_raw(brace + "}{}", bytes(8)),
        "json-depth": st_raw('{"a":' + "[" * 2100 + "]" * 2100 + "}"),
        "json-number": st_raw(brace.replace("8]", "08]") + "}", bytes(8)),
        "utf8": st_raw(brace.encode().replace(b'"a"', b'"\xc3("') + b"}", bytes(8)),
        "surrogate": st_raw(brace.replace('"a"', '"\\ud800"') + "}", bytes(8)),
        "nul-in-name": st_raw(brace.replace('"a"', '"a\\u0000b"') + "}", bytes(8)),
        "tensor-twice": st_raw(brace + ", " + brace[1:] + "}", bytes(8)),
        "key-twice": st_raw(brace.replace('"shape"', '"dtype": "F32", "shape"') + "}", bytes(8)),
        "metadata-list": st_raw('{"__metadata__": []}'),
        "metadata-number": st_raw('{"__metadata__": {"a": 1}}'),
        "metadata-null": st_raw('{"__metadata__": null}'),
        "entry-list": st_raw('{"a": []}'),
        "dtype-missing": st_raw('{"a": {"shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
        "shape-missing": st_raw('{"a": {"dtype": "F32", "data_offsets": [0, 8]}}', bytes(8)),
        "offsets-missing": st_raw('{"a": {"dtype": "F32", "shape": [2]}}', bytes(8)),
        "key-unknown": st_one(extra=1),
        "dtype-unknown": st_one(dtype="F33"),
        "dtype-number": st_raw('{"a": {"dtype": 4, "shape": [2], "data_offsets": [0, 8]}}',
                               bytes(8)),
        "shape-number": st_raw('{"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}',
                               bytes(8)),
        "shape-real": st_one(shape=[2.0]),
        "shape-negative": st_one(shape=[-2]),
        "shape-size": st_one(shape=[2**63]),
        "shape-product": st_one(shape=[2**32, 2**31]),
        "shape-product-empty": st_one(shape=[0, 2**32, 2**32], offsets=(0, 0), data=b""),
        "shape-bytes": st_one(shape=[2**61]),
        "shape-half-byte": st_one(dtype="F4", shape=[3], offsets=(0, 2), data=bytes(2)),
        "offsets-one": st_one(offsets=(0,)),
        "offsets-three": st_one(offsets=(0, 8, 8)),
        "offsets-real": st_one(offsets=(0, 8.0)),
        "offsets-negative": st_one(offsets=(-8, 0)),
        "offsets-reversed": st_one(offsets=(8, 0)),
        "offsets-2to64": st_one(offsets=(0, 2**64)),
        "offsets-beyond": st_one(shape=[4], offsets=(0, 16)),
        "size-less": st_one(shape=[1]),
        "size-more": st_one(shape=[3]),
        "hole-first": st_one(offsets=(1, 9), data=bytes(9)),
        "hole": st_two([0, 3], [4, 8], bytes(8)),
        "overlap": st_two([0, 5], [4, 8], bytes(8)),
        "overlap-same": st_two([0, 8], [0, 8], bytes(8)),
        "trailing": st_one(data=bytes(9)),
        "trailing-nothing": st_raw("{}", b"x"),
        "name-escape": st_one(name="a\x1b[2J\u009b", shape=[3]),
    }
    for name, data in cases.items():
        put("safetensors", f"bad-{name}.safetensors", data)


npy_seeds()
safetensors_ok_seeds()
safetensors_bad_seeds()
