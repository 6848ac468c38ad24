/* Spectral normalization of many small float32 weights on a CPU, where calling an operator for each step of each weight
   costs more than the arithmetic. Tensors come as addresses; poise/kernels/__init__.py sees to it that they are what
   is said of them. Plain C and Python's stable interface: nothing of torch is needed to build it. */

#define _GNU_SOURCE
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef __GNUC__
#error "needs the vector types of GCC and Clang; without this module poise calls torch's operators instead"
#endif

#define LANES 16
#define BLOCK 1024
#define LEFT 1e-5 /* of a vector, what is not rounding */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define AT(place) (*(lanes *)(place))
#define IN(place) (*(const lanes *)(place))

/* A round of power iteration on a weight of shape (outer, middle, kernel), read as a matrix of `outer` rows, of
   `middle` rows, or as both; a direction that is not used has null vectors and σ 0. No quotient is made where that is
   null. */
typedef struct {
    Py_ssize_t outer, middle, kernel;
    const float *w, *row_u, *column_u;
    float *row_v, *row_next, *column_v, *column_next, *quotient;
    double scale, eps, row_sigma, column_sigma;
} Round;

/* The gradient of W where grad is that of factor·W, factor = scale/σ̄; a direction that is not used has null
   vectors. */
typedef struct {
    Py_ssize_t outer, middle, kernel;
    const float *grad, *w;
    float *out;
    const float *row_u, *row_v, *column_u, *column_v;
    double factor, sigma, eps;
} Derivative;

/* One round of following the largest singular values of W, shape (rows, columns), by so many steps of block Lanczos.
   The basis, `count` vectors of the shorter side, is replaced by the next one, or left where W tells nothing. */
typedef struct {
    Py_ssize_t rows, columns, count, steps, wanted;
    const float *w;
    float *basis, *values;
} Follow;

typedef struct {
    void (*round)(Round *, float *);
    void (*derive)(const Derivative *, float *);
    void (*follow)(const Follow *, void *);
} Loops;

static int is_length(double x, double eps) { return x > eps && x < INFINITY; }

/* y[i, j] = x[i], i < m, j < k. */
static void spread_out(float *y, const float *x, Py_ssize_t m, Py_ssize_t k) {
    for (Py_ssize_t i = 0; i < m; ++i) {
        for (Py_ssize_t j = 0; j < k; ++j) y[i * k + j] = x[i];
    }
}

/* Eigenvalues of a symmetric matrix of full precision, descending, on its diagonal, and eigenvectors as the columns of
   `turn`: Jacobi's rotations, pair by pair, until nothing is left to turn (Golub and Van Loan, section 8.5). */
static void diagonalize(double *a, double *turn, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n * n; ++i) turn[i] = i % (n + 1) == 0;
    int is_done = 0;
    for (int sweep = 0; sweep < 30 && !is_done; ++sweep) {
        is_done = 1;
        for (Py_ssize_t p = 0; p < n; ++p) {
            for (Py_ssize_t q = p + 1; q < n; ++q) {
                const double off = a[p * n + q];
                if (!(fabs(off) > 1e-12 * sqrt(fabs(a[p * n + p] * a[q * n + q])))) continue;
                is_done = 0;
                const double ratio = (a[q * n + q] - a[p * n + p]) / (2 * off);
                const double tangent = (ratio < 0 ? -1 : 1) / (fabs(ratio) + sqrt(1 + ratio * ratio));
                const double cosine = 1 / sqrt(1 + tangent * tangent), sine = tangent * cosine;
                for (Py_ssize_t i = 0; i < n; ++i) {
                    const double x = a[i * n + p], y = a[i * n + q];
                    a[i * n + p] = cosine * x - sine * y;
                    a[i * n + q] = sine * x + cosine * y;
                }
                for (Py_ssize_t i = 0; i < n; ++i) {
                    const double x = a[p * n + i], y = a[q * n + i], s = turn[i * n + p], t = turn[i * n + q];
                    a[p * n + i] = cosine * x - sine * y;
                    a[q * n + i] = sine * x + cosine * y;
                    turn[i * n + p] = cosine * s - sine * t;
                    turn[i * n + q] = sine * s + cosine * t;
                }
                a[p * n + q] = a[q * n + p] = 0;
            }
        }
    }
    for (Py_ssize_t p = 0; p < n; ++p) {
        Py_ssize_t largest = p;
        for (Py_ssize_t q = p + 1; q < n; ++q) {
            if (a[q * n + q] > a[largest * n + largest]) largest = q;
        }
        if (largest == p) continue;
        const double value = a[p * n + p];
        a[p * n + p] = a[largest * n + largest];
        a[largest * n + largest] = value;
        for (Py_ssize_t i = 0; i < n; ++i) {
            const double entry = turn[i * n + p];
            turn[i * n + p] = turn[i * n + largest];
            turn[i * n + largest] = entry;
        }
    }
}

#define TARGET
#define NAME(f) f##_anywhere
#include "loops.h"
#undef TARGET
#undef NAME

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,fma")))
#define NAME(f) f##_avx2
#include "loops.h"
#undef TARGET
#undef NAME
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define NAME(f) f##_avx512
#include "loops.h"
#undef TARGET
#undef NAME
#endif

/* Those this processor can run, the best first. */
static Loops known[3], chosen;
static Py_ssize_t count_known;

static void find_loops(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512f")) known[count_known++] = loops_avx512;
        known[count_known++] = loops_avx2;
    }
#endif
    known[count_known++] = loops_anywhere;
    chosen = known[0];
}

static PyObject *use(PyObject *module, PyObject *number) {
    const Py_ssize_t index = PyLong_AsSsize_t(number);
    if (index == -1 && PyErr_Occurred()) return NULL;
    if (index < 0 || index >= count_known) {
        const char *message = "%zd is not one of this processor's %zd sets of instructions";
        return PyErr_Format(PyExc_ValueError, message, index, count_known);
    }
    chosen = known[index];
    return PyLong_FromSsize_t(count_known);
}

/* Items of a list of numbers, one after the other; once one cannot be read, all that follow are 0. */
typedef struct {
    PyObject *list;
    Py_ssize_t next;
} Reader;

static int64_t next_integer(Reader *reader) {
    PyObject *item = PyErr_Occurred() ? NULL : PyList_GetItem(reader->list, reader->next++);
    return item == NULL ? 0 : PyLong_AsLongLong(item);
}

static void *next_address(Reader *reader) { return (void *)(uintptr_t)next_integer(reader); }

static double next_number(Reader *reader) {
    PyObject *item = PyErr_Occurred() ? NULL : PyList_GetItem(reader->list, reader->next++);
    return item == NULL ? 0 : PyFloat_AsDouble(item);
}

/* Memory for as many jobs as a list of `fields` numbers each tells of, and their count. */
static void *jobs_of(PyObject *list, Py_ssize_t fields, size_t size, Py_ssize_t *count) {
    const Py_ssize_t length = PyList_Size(list);
    if (length < 0) return NULL;
    if (length % fields) {
        return PyErr_Format(PyExc_ValueError, "%zd numbers given; needed: %zd a weight", length, fields);
    }
    *count = length / fields;
    void *jobs = calloc(*count ? *count : 1, size);
    return jobs == NULL ? PyErr_NoMemory() : jobs;
}

/* Jobs shared out among threads: each takes the next one that nobody has taken. */
typedef struct {
    void (*work)(void *jobs, Py_ssize_t index, float *space);
    void *jobs;
    Py_ssize_t count, next, done;
    size_t space;
} Crew;

static void take_part(void *argument) {
    Crew *crew = argument;
    float *space = malloc(crew->space);
    if (space == NULL) return; /* leaves the jobs to others */
    for (;;) {
        const Py_ssize_t index = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
        if (index >= crew->count) break;
        crew->work(crew->jobs, index, space);
        __atomic_fetch_add(&crew->done, 1, __ATOMIC_RELAXED);
    }
    free(space);
}

/* The entry of the OpenMP library that torch has loaded, whose threads are awake then: others would take longer to wake
   than the work takes. */
static void (*on_torch_threads)(void (*)(void *), void *, unsigned, unsigned);

/* Does all jobs, each with so many floats to work in; returns whether it did, else with Python's error set. */
static int do_all(
    void (*work)(void *, Py_ssize_t, float *), void *jobs, Py_ssize_t count, Py_ssize_t floats, Py_ssize_t threads
) {
    if (PyErr_Occurred()) return 0;
    Crew crew = {work, jobs, count, 0, 0, sizeof(float) * floats};
    Py_BEGIN_ALLOW_THREADS
    if (threads > 1 && on_torch_threads != NULL) on_torch_threads(take_part, &crew, (unsigned)threads, 0);
    else take_part(&crew);
    Py_END_ALLOW_THREADS
    if (crew.done < count) PyErr_NoMemory();
    return crew.done == count;
}

static Py_ssize_t larger(Py_ssize_t a, Py_ssize_t b) { return a > b ? a : b; }

/* Memory for the loops of a weight read by columns. */
static Py_ssize_t space_of(Py_ssize_t middle, Py_ssize_t kernel) { return (2 * middle + LANES) * kernel; }

static void do_round(void *jobs, Py_ssize_t index, float *space) { chosen.round((Round *)jobs + index, space); }

/* The next `size` floats of memory, which is moved on; NULL if they are not used. */
static float *taken(float **memory, Py_ssize_t size, const float *user) {
    float *place = user == NULL ? NULL : *memory;
    if (user != NULL) *memory += size;
    return place;
}

#define ROUND_FIELDS 9

static PyObject *rounds(PyObject *module, PyObject *args) {
    PyObject *list, *found = NULL;
    unsigned long long memory;
    Py_ssize_t threads, count = 0, most = 1;
    if (!PyArg_ParseTuple(args, "O!Kn", &PyList_Type, &list, &memory, &threads)) return NULL;
    Round *jobs = jobs_of(list, ROUND_FIELDS, sizeof(Round), &count);
    if (jobs == NULL) return NULL;
    Reader reader = {list, 0};
    float *place = (float *)(uintptr_t)memory;
    for (Py_ssize_t i = 0; i < count; ++i) {
        Round *r = jobs + i;
        r->outer = next_integer(&reader);
        r->middle = next_integer(&reader);
        r->kernel = next_integer(&reader);
        r->w = next_address(&reader);
        r->row_u = next_address(&reader);
        r->column_u = next_address(&reader);
        r->quotient = next_address(&reader);
        r->scale = next_number(&reader);
        r->eps = next_number(&reader);
        r->row_next = taken(&place, r->outer, r->row_u);
        r->row_v = taken(&place, r->middle * r->kernel, r->row_u);
        r->column_next = taken(&place, r->middle, r->column_u);
        r->column_v = taken(&place, r->outer * r->kernel, r->column_u);
        most = larger(most, space_of(r->middle, r->kernel));
    }
    if (do_all(do_round, jobs, count, most, threads)) found = PyList_New(2 * count);
    for (Py_ssize_t i = 0; found != NULL && i < count; ++i) {
        PyList_SetItem(found, 2 * i, PyFloat_FromDouble(jobs[i].row_sigma));
        PyList_SetItem(found, 2 * i + 1, PyFloat_FromDouble(jobs[i].column_sigma));
    }
    free(jobs);
    return found;
}

static void do_derivative(void *jobs, Py_ssize_t index, float *space) {
    chosen.derive((Derivative *)jobs + index, space);
}

#define DERIVATIVE_FIELDS 13

static PyObject *derivatives(PyObject *module, PyObject *args) {
    PyObject *list;
    Py_ssize_t threads, count = 0, most = 1;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &list, &threads)) return NULL;
    Derivative *jobs = jobs_of(list, DERIVATIVE_FIELDS, sizeof(Derivative), &count);
    if (jobs == NULL) return NULL;
    Reader reader = {list, 0};
    for (Py_ssize_t i = 0; i < count; ++i) {
        Derivative *d = jobs + i;
        d->outer = next_integer(&reader);
        d->middle = next_integer(&reader);
        d->kernel = next_integer(&reader);
        d->grad = next_address(&reader);
        d->w = next_address(&reader);
        d->out = next_address(&reader);
        d->row_u = next_address(&reader);
        d->row_v = next_address(&reader);
        d->column_u = next_address(&reader);
        d->column_v = next_address(&reader);
        d->factor = next_number(&reader);
        d->sigma = next_number(&reader);
        d->eps = next_number(&reader);
        most = larger(most, space_of(d->middle, d->kernel));
    }
    const int done = do_all(do_derivative, jobs, count, most, threads);
    free(jobs);
    if (!done) return NULL;
    Py_RETURN_NONE;
}

static void do_follow(void *jobs, Py_ssize_t index, float *space) { chosen.follow((Follow *)jobs + index, space); }

#define FOLLOW_FIELDS 8

static PyObject *follow(PyObject *module, PyObject *args) {
    PyObject *list;
    Py_ssize_t threads, count = 0, most = 1;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &list, &threads)) return NULL;
    Follow *jobs = jobs_of(list, FOLLOW_FIELDS, sizeof(Follow), &count);
    if (jobs == NULL) return NULL;
    Reader reader = {list, 0};
    for (Py_ssize_t i = 0; i < count; ++i) {
        Follow *f = jobs + i;
        f->rows = next_integer(&reader);
        f->columns = next_integer(&reader);
        f->count = next_integer(&reader);
        f->steps = next_integer(&reader);
        f->wanted = next_integer(&reader);
        f->basis = next_address(&reader);
        f->w = next_address(&reader);
        f->values = next_address(&reader);
        const Py_ssize_t size = f->count * (f->steps + 1);
        most = larger(most, 4 * size * size + size * (f->rows + f->columns) + f->count * f->rows);
    }
    const int done = do_all(do_follow, jobs, count, most, threads);
    free(jobs);
    if (!done) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"rounds", rounds, METH_VARARGS,
     "Rounds of power iteration; returns σ by rows and by columns of each, 0 of one not used, NaN of one unknown."},
    {"derivatives", derivatives, METH_VARARGS, "Gradients of weights from those of the weights divided by their σ."},
    {"follow", follow, METH_VARARGS, "Rounds of following the largest singular values."},
    {"use", use, METH_O, "Loops for the n-th set of instructions from now on, 0 the best; returns how many there are."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "poise.kernels._cpu",
    .m_doc = "Loops over small float32 weights.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__cpu(void) {
    find_loops();
    on_torch_threads = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    return PyModule_Create(&definition);
}
