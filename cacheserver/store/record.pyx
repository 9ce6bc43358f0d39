"""How a record is laid out, read and written, and what it costs. Its one home.

A record is an entry, a tuple (value, version, deadline, content type, slot), or the same packed
into one bytes object: slot (4 bytes), code (1), version (8), then 8 bytes of the deadline where the
code says that there is one, then the value. Numbers are little-endian, a deadline is a double. Code
is the index of the content type in COMMON_CONTENT_TYPES, plus MORTAL where there is a deadline.

Packed are values of bytes, up to PACKED_UP_TO of them, of a common content type. No record ever
changes.
"""

import sys
import sysconfig

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_New
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from cacheserver.store.entry import COMMON_CONTENT_TYPES, PACKED_UP_TO

cdef extern from "Python.h":
    int PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    uint64_t PyLong_AsUnsignedLongLong(object number) except? <uint64_t>-1
    double PyFloat_AsDouble(object number) except? -1

cdef enum:
    CODE_AT = 4
    VERSION_AT = 5
    DEADLINE_AT = 13
    VALUE_AT = 13
    MORTAL = 64
    MORTAL_VALUE_AT = 21
    COMMON = 7  # content types
    LARGEST_PACKED = 1024

assert (COMMON, LARGEST_PACKED) == (len(COMMON_CONTENT_TYPES), PACKED_UP_TO)

# Interned text is immortal where there is no GIL: no reference to it is counted, so that threads
# don't meet there.
cdef tuple _types = tuple(map(sys.intern, COMMON_CONTENT_TYPES))
cdef PyObject* _type[COMMON]
for _at in range(COMMON):
    _type[_at] = <PyObject*>PyTuple_GET_ITEM(_types, _at)


# Reading.

cdef int read_fields(object record, Fields* fields) except -1:
    """Say what a record holds. Of a value that is not bytes it says nothing."""
    cdef const char* start
    cdef object value
    if type(record) is bytes:
        start = PyBytes_AS_STRING(record)
        fields.size = PyBytes_GET_SIZE(record)
        fields.code = <uint8_t>start[CODE_AT]
        memcpy(&fields.slot, start, sizeof(uint32_t))
        memcpy(&fields.version, start + VERSION_AT, sizeof(uint64_t))
        if fields.code < MORTAL:
            fields.deadline = 0
            fields.value = start + VALUE_AT
            fields.size -= VALUE_AT
        else:
            fields.code -= MORTAL
            memcpy(&fields.deadline, start + DEADLINE_AT, sizeof(double))
            fields.value = start + MORTAL_VALUE_AT
            fields.size -= MORTAL_VALUE_AT
        return 0
    value, version, deadline, content_type, slot = <tuple>record
    fields.version = PyLong_AsUnsignedLongLong(version)
    fields.deadline = PyFloat_AsDouble(deadline)
    fields.slot = PyLong_AsUnsignedLongLong(slot)
    fields.code = _code_of(content_type)
    fields.value = NULL
    fields.size = 0
    if type(value) is bytes:
        fields.value = PyBytes_AS_STRING(value)
        fields.size = PyBytes_GET_SIZE(value)
    return 0


cdef str content_type_of(object record):
    """Return a record's content type."""
    cdef int code
    if type(record) is bytes:
        code = (<uint8_t>PyBytes_AS_STRING(record)[CODE_AT]) % MORTAL
        return <str>_type[code]
    return (<tuple>record)[3]


cdef object entry_of(object record):
    """Return the entry that a record stands for."""
    cdef Fields fields
    if type(record) is not bytes:
        return record
    read_fields(record, &fields)
    value = PyBytes_FromStringAndSize(fields.value, fields.size)
    return whole(value, fields.version, fields.deadline, <object>_type[fields.code], fields.slot)


def unpack(record):
    """Return the entry that a record stands for."""
    return entry_of(record)


def deadline_of(record):
    """Return when the record's time is up, NEVER where it stays."""
    cdef Fields fields
    if type(record) is not bytes:
        return record[2]
    read_fields(record, &fields)
    return fields.deadline if fields.deadline else 0


def slot_of(record):
    """Return the slot of a record."""
    cdef Fields fields
    if type(record) is not bytes:
        return record[4]
    read_fields(record, &fields)
    return fields.slot


def version_of(record):
    """Return the version of a record."""
    cdef Fields fields
    if type(record) is not bytes:
        return record[1]
    read_fields(record, &fields)
    return fields.version


# Writing.

cdef int _code_of(object content_type) except -2:
    """Return the index of a content type, -1 where it is none of the common ones."""
    cdef int at
    for at in range(COMMON):
        if <PyObject*>content_type == _type[at]:
            return at
    for at in range(COMMON):
        if content_type == <object>_type[at]:
            return at
    return -1


cdef object packed(
    object value, uint64_t version, double deadline, object content_type, uint32_t slot
):
    """Return a packed record, or the entry itself where that can't be packed."""
    cdef Py_ssize_t size, at
    cdef int code
    cdef char* start
    if type(value) is not bytes or PyBytes_GET_SIZE(value) > LARGEST_PACKED:
        return whole(value, version, deadline, content_type, slot)
    code = _code_of(content_type)
    if code < 0:
        return whole(value, version, deadline, content_type, slot)
    size = PyBytes_GET_SIZE(value)
    at = MORTAL_VALUE_AT if deadline else VALUE_AT
    record = PyBytes_FromStringAndSize(NULL, at + size)
    start = PyBytes_AS_STRING(record)
    memcpy(start, &slot, sizeof(uint32_t))
    start[CODE_AT] = <char>(code + MORTAL if deadline else code)
    memcpy(start + VERSION_AT, &version, sizeof(uint64_t))
    if deadline:
        memcpy(start + DEADLINE_AT, &deadline, sizeof(double))
    memcpy(start + at, PyBytes_AS_STRING(value), size)
    return record


cdef object whole(
    object value, uint64_t version, double deadline, object content_type, uint32_t slot
):
    """Return the entry itself, for values of any kind."""
    entry = PyTuple_New(5)
    put_item(entry, 0, value)
    put_item(entry, 1, version)
    # An int where there is none: small ones are shared without counting references.
    put_item(entry, 2, deadline if deadline else <object>0)
    put_item(entry, 3, content_type)
    put_item(entry, 4, slot)
    return entry


def pack(value, version, deadline, content_type, slot):
    """Return the record of these fields, packed where it can be."""
    return packed(value, version, deadline, content_type, slot)


def with_slot(record, slot):
    """Return the same record for another slot."""
    if type(record) is not bytes:
        return (*record[:4], slot)
    return int(slot).to_bytes(4, "little") + record[4:]


# What things take in memory. The headers of objects and the rounding of the allocator depend on the
# interpreter: with free threads it is mimalloc, else pymalloc. docs/performance.md holds the sum
# against the growth of resident memory.

cdef bint _free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


cdef int64_t _allocated(int64_t size) noexcept nogil:
    """Return what the allocator takes for an object of so many bytes."""
    cdef int64_t page, words
    cdef int shift
    if size > 16 << 10:  # mimalloc, and malloc for what is very large, begin a page for it
        page = 4096 if _free_threaded or size >= 128 << 10 else 16
        return (size + page - 1) // page * page
    if not _free_threaded:
        return (size + 15) // 16 * 16 + (0 if size <= 512 else 16)
    words = (size + 7) // 8
    if words <= 8:
        return (words + 1) // 2 * 16
    # Four sizes for every power of two.
    shift = 0
    while (words - 1) >> shift >= 8:
        shift += 1
    return (((words - 1) >> shift) + 1 << shift) * 8


cdef int64_t _gc_header = 0 if _free_threaded else 16
cdef int64_t _bytes_head = sys.getsizeof(b"")
cdef int64_t _text_head = sys.getsizeof("")
cdef int64_t _entry_cost = (
    _allocated(sys.getsizeof((0, 0, 0, 0, 0)) + _gc_header)
    + _allocated(sys.getsizeof(1 << 50))  # the version
    + _allocated(sys.getsizeof(1 << 20))  # the slot
)
cdef int64_t _float_cost = _allocated(sys.getsizeof(0.5))

SHARE = 60
"""Bytes that an entry takes in its stripe's dict and in the lists of its slot.

Between 40 and 70, since a table that doubles as it grows has 1.5 to 3 places for an entry. A
deadline takes some 15 more, and the sketch of `lfu` 25, which aren't counted."""
cdef int64_t _share = SHARE


cdef int64_t _key_cost(object key) except -1:
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(<str?>key)
    return _share + _allocated(_text_head + (length if PyUnicode_IS_ASCII(key) else 4 * length))


cdef int64_t _record_cost(object record) except -1:
    cdef int64_t size
    if type(record) is bytes:
        return _allocated(_bytes_head + PyBytes_GET_SIZE(record))
    value, _version, deadline, content_type, _slot = <tuple>record
    size = _entry_cost + _allocated(_bytes_head + len(value))
    if deadline:
        size += _float_cost
    if _code_of(content_type) < 0:
        size += _allocated(_text_head + len(content_type))
    return size


cdef int64_t growth_of(object key, object old, object new) except? -1:
    """Return the bytes of memory that it takes more to have `new` in the place of `old`."""
    cdef int64_t size = 0
    if (old is None) != (new is None):
        size = _key_cost(key) if old is None else -_key_cost(key)
    if new is not None:
        size += _record_cost(new)
    if old is not None:
        size -= _record_cost(old)
    return size


def cost(key, record):
    """Return the bytes of memory that this record takes under this key.

    The same for equal keys, however they were made: what is added for an entry is what is taken
    away for it later.
    """
    return growth_of(key, None, record)


def growth(key, old, new):
    """Return the bytes of memory that `new` takes more than `old`; None is no record."""
    return growth_of(key, old, new)
