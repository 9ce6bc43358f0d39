"""Numbers that one thread counts for each request it answers, and any other may read meanwhile.

Guarantees: no addition is lost, and no number is read half written. Only the thread that owns
`RequestCounts` adds to it, by loads and stores of whole 64-bit numbers (store/atomic.h); others
load them. What is read of two numbers need not be of one instant.
"""


from cacheserver.store.atomic cimport number_add, number_get

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""The methods that are told apart: clients can invent any number of others."""
OTHER = "other"

cdef enum:
    FIRST_STATUS = 100
    FIRST_BOUND = 4  # bucket k holds what took at most 2**(k + FIRST_BOUND) us; the last all else

FIRST = FIRST_BOUND
NUMBER_OF_BUCKETS = BUCKETS


cpdef int index_of(str method):
    """Return the number that a method is counted under; all that are not in METHODS share one."""
    return METHODS.index(method) if method in METHODS else len(METHODS)


cdef int _bucket(int64_t nanoseconds) noexcept:
    cdef int64_t microseconds = (nanoseconds + 999) // 1000
    cdef int bucket = 0
    while bucket < BUCKETS - 1 and microseconds > <int64_t>1 << (bucket + FIRST_BOUND):
        bucket += 1
    return bucket


cdef class RequestCounts:
    """How many requests one thread answered, by method and status, and how long they took."""

    cdef void count(self, int method, int status) noexcept:
        """Count a request by a method's `index_of` that got a status, from 100 to 599."""
        number_add(&self.requests[method][status - FIRST_STATUS], 1)

    cdef void time(self, int64_t nanoseconds, int64_t number) noexcept:
        """Note that `number` requests were answered together, each after so long."""
        number_add(&self.buckets[_bucket(nanoseconds)], number)
        number_add(&self.taken, nanoseconds * number)
        number_add(&self.was_busy, nanoseconds)

    def request(self, str method, int status, double seconds):
        """Note a request that was answered after so long. ValueError for a status that is none."""
        if not FIRST_STATUS <= status < FIRST_STATUS + STATUSES:
            raise ValueError(f"a status is a number from 100 to 599, not {status}")
        self.count(index_of(method), status)
        self.took(seconds)

    def took(self, double seconds, int64_t number=1):
        """Note that `number` requests were answered together, each after so long."""
        self.time(<int64_t>(seconds * 1e9 + 0.5), number)

    def by_label(self):
        """Return how many requests there were by (method, status), where there was any."""
        cdef int64_t number
        found = {}
        for method, name in enumerate((*METHODS, OTHER)):
            for status in range(STATUSES):
                number = number_get(&self.requests[<int>method][<int>status])
                if number:
                    found[name, FIRST_STATUS + status] = number
        return found

    def by_bucket(self):
        """Return how many requests there were in each bucket."""
        return tuple([number_get(&self.buckets[bucket]) for bucket in range(BUCKETS)])

    def seconds(self):
        """Return the seconds of all requests together: those answered together count each."""
        return number_get(&self.taken) / 1e9

    def busy(self):
        """Return the seconds spent on requests: those answered together count once."""
        return number_get(&self.was_busy) / 1e9
