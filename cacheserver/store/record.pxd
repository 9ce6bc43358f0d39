from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct Fields:
    const char* value  # inside the record: valid as long as somebody owns that; NULL: no bytes
    Py_ssize_t size
    uint64_t version
    double deadline  # 0: never
    uint32_t slot
    int code  # index in COMMON_CONTENT_TYPES, -1: another one

cdef int read_fields(object record, Fields* fields) except -1
cdef str content_type_of(object record)
cdef object entry_of(object record)
cdef object packed(
    object value, uint64_t version, double deadline, object content_type, uint32_t slot
)
cdef object whole(
    object value, uint64_t version, double deadline, object content_type, uint32_t slot
)
cdef int64_t growth_of(object key, object old, object new) except? -1

cdef inline void put_item(object new, Py_ssize_t at, object item) noexcept:
    """Set an item of a tuple that nobody else knows yet."""
    Py_INCREF(item)
    PyTuple_SET_ITEM(new, at, item)
