/* The arithmetic of cpu.c, included once for each instruction set: TARGET is what a function is compiled for, NAME(f)
   what it is then called. Sums are kept in sixteen lanes, and Py_ssize_t ones in double precision. */

/* y[j] += Σ_i u[i] w[i, j], i < m, j < n. */
TARGET static void NAME(add_rows)(float *y, const float *w, const float *u, Py_ssize_t m, Py_ssize_t n) {
    Py_ssize_t i = 0;
    for (; i + 4 <= m; i += 4) {
        const float *a = w + i * n, *b = a + n, *c = b + n, *d = c + n;
        const float p = u[i], q = u[i + 1], r = u[i + 2], s = u[i + 3];
        Py_ssize_t j = 0;
        for (; j + LANES <= n; j += LANES) {
            AT(y + j) = (AT(y + j) + p * IN(a + j) + q * IN(b + j)) + (r * IN(c + j) + s * IN(d + j));
        }
        for (; j < n; ++j) y[j] += p * a[j] + q * b[j] + r * c[j] + s * d[j];
    }
    for (; i < m; ++i) {
        for (Py_ssize_t j = 0; j < n; ++j) y[j] += u[i] * w[i * n + j];
    }
}

/* Σ_j a[j] b[j], j < n: of at most BLOCK terms in single precision, of more in double. */
TARGET static double NAME(inner)(const float *a, const float *b, Py_ssize_t n) {
    double total = 0;
    for (Py_ssize_t start = 0; start < n; start += BLOCK) {
        const Py_ssize_t end = start + BLOCK < n ? start + BLOCK : n;
        lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        Py_ssize_t j = start;
        for (; j + 4 * LANES <= end; j += 4 * LANES) {
            s0 += IN(a + j) * IN(b + j);
            s1 += IN(a + j + LANES) * IN(b + j + LANES);
            s2 += IN(a + j + 2 * LANES) * IN(b + j + 2 * LANES);
            s3 += IN(a + j + 3 * LANES) * IN(b + j + 3 * LANES);
        }
        for (; j + LANES <= end; j += LANES) s0 += IN(a + j) * IN(b + j);
        s0 = (s0 + s1) + (s2 + s3);
        float sums[LANES], sum;
        AT(sums) = s0;
        for (int half = LANES / 2; half > 0; half /= 2) {
            for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
        }
        for (sum = sums[0]; j < end; ++j) sum += a[j] * b[j];
        total += sum;
    }
    return total;
}

/* Divides x by its length, which it returns; squares are added in double precision, where those of floats neither
   over- nor underflow. */
TARGET static double NAME(unit)(float *x, Py_ssize_t n) {
    double parts[LANES] = {0}, square = 0;
    Py_ssize_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        for (int lane = 0; lane < LANES; ++lane) parts[lane] += (double)x[j + lane] * x[j + lane];
    }
    for (; j < n; ++j) square += (double)x[j] * x[j];
    for (int lane = 0; lane < LANES; ++lane) square += parts[lane];
    const double length = sqrt(square);
    const double inverse = 1 / length;
    for (j = 0; j < n; ++j) x[j] = (float)(x[j] * inverse);
    return length;
}

/* y[j mod k] += Σ a[j] b[j], j < n, with space for LANES·k sums. */
TARGET static void NAME(inner_modulo)(
    float *y, const float *a, const float *b, Py_ssize_t n, Py_ssize_t k, float *sums
) {
    Py_ssize_t j = 0;
    if (n >= LANES * k) {
        memset(sums, 0, sizeof(float) * LANES * k);
        for (; j + LANES * k <= n; j += LANES * k) {
            for (Py_ssize_t i = 0; i < LANES * k; i += LANES) AT(sums + i) += IN(a + j + i) * IN(b + j + i);
        }
        for (Py_ssize_t i = 0; i < LANES; ++i) {
            for (Py_ssize_t r = 0; r < k; ++r) y[r] += sums[i * k + r];
        }
    }
    for (Py_ssize_t r = 0; j < n; ++j, r = r + 1 == k ? 0 : r + 1) y[r] += a[j] * b[j];
}

/* y[j] += a[j] x[j mod k], j < n, with space for LANES·k copies. */
TARGET static void NAME(add_modulo)(
    float *y, const float *a, const float *x, Py_ssize_t n, Py_ssize_t k, float *copies
) {
    Py_ssize_t j = 0;
    if (n >= LANES * k) {
        for (Py_ssize_t i = 0; i < LANES; ++i) memcpy(copies + i * k, x, sizeof(float) * k);
        for (; j + LANES * k <= n; j += LANES * k) {
            for (Py_ssize_t i = 0; i < LANES * k; i += LANES) AT(y + j + i) += IN(a + j + i) * IN(copies + i);
        }
    }
    for (Py_ssize_t r = 0; j < n; ++j, r = r + 1 == k ? 0 : r + 1) y[j] += a[j] * x[r];
}

/* v ← Wᵀu/‖Wᵀu‖, next ← Wv/σ, σ = ‖Wv‖, W of `outer` rows; returns σ, NaN if a length is no number above eps. */
TARGET static double NAME(round_of_rows)(const Round *r) {
    const Py_ssize_t m = r->outer, n = r->middle * r->kernel;
    memset(r->row_v, 0, sizeof(float) * n);
    NAME(add_rows)(r->row_v, r->w, r->row_u, m, n);
    const double length = NAME(unit)(r->row_v, n);
    for (Py_ssize_t i = 0; i < m; ++i) r->row_next[i] = (float)NAME(inner)(r->w + i * n, r->row_v, n);
    const double sigma = NAME(unit)(r->row_next, m);
    return is_length(length, r->eps) && is_length(sigma, r->eps) ? sigma : NAN;
}

/* The same of the matrix whose rows are counted by the weight's second dimension. */
TARGET static double NAME(round_of_columns)(const Round *r, float *space) {
    const Py_ssize_t count = r->outer, m = r->middle, k = r->kernel, n = m * k;
    float *spread = space, *sums = space + n, *lanes_of_k = sums + n;
    spread_out(spread, r->column_u, m, k);
    memset(r->column_v, 0, sizeof(float) * count * k);
    for (Py_ssize_t o = 0; o < count; ++o) {
        NAME(inner_modulo)(r->column_v + o * k, r->w + o * n, spread, n, k, lanes_of_k);
    }
    const double length = NAME(unit)(r->column_v, count * k);
    memset(sums, 0, sizeof(float) * n);
    for (Py_ssize_t o = 0; o < count; ++o) NAME(add_modulo)(sums, r->w + o * n, r->column_v + o * k, n, k, lanes_of_k);
    for (Py_ssize_t i = 0; i < m; ++i) {
        float sum = 0;
        for (Py_ssize_t j = 0; j < k; ++j) sum += sums[i * k + j];
        r->column_next[i] = sum;
    }
    const double sigma = NAME(unit)(r->column_next, m);
    return is_length(length, r->eps) && is_length(sigma, r->eps) ? sigma : NAN;
}

/* A round for each direction that is used, and, while W is in the cache, quotient ← scale/σ̄ · W. */
TARGET static void NAME(round)(Round *r, float *space) {
    if (r->row_u != NULL) r->row_sigma = NAME(round_of_rows)(r);
    if (r->column_u != NULL) r->column_sigma = NAME(round_of_columns)(r, space);
    if (r->quotient == NULL) return;
    const int directions = (r->row_u != NULL) + (r->column_u != NULL);
    const float factor = (float)(r->scale * directions / (r->row_sigma + r->column_sigma));
    const Py_ssize_t n = r->outer * r->middle * r->kernel;
    Py_ssize_t j = 0;
    for (; j + LANES <= n; j += LANES) AT(r->quotient + j) = factor * IN(r->w + j);
    for (; j < n; ++j) r->quotient[j] = factor * r->w[j];
}

/* out ← factor·(grad − ⟨grad, W⟩/σ̄ · mean of the directions' u vᵀ); without the second term where σ̄ is not above
   eps. */
TARGET static void NAME(derive)(const Derivative *d, float *space) {
    const Py_ssize_t m = d->outer, k = d->kernel, n = d->middle * k;
    const int directions = (d->row_u != NULL) + (d->column_u != NULL);
    const double inner = NAME(inner)(d->grad, d->w, m * n);
    const float factor = (float)d->factor;
    const float share = d->sigma > d->eps ? (float)(-inner * d->factor / (d->sigma * directions)) : 0;
    if (d->column_u != NULL) {
        spread_out(space, d->column_u, d->middle, k);
        for (Py_ssize_t j = 0; j < n; ++j) space[j] *= share;
    }
    for (Py_ssize_t i = 0; i < m; ++i) {
        const float *grad = d->grad + i * n;
        float *out = d->out + i * n;
        Py_ssize_t j = 0;
        if (d->row_u != NULL) {
            const float of_v = share * d->row_u[i];
            for (; j + LANES <= n; j += LANES) AT(out + j) = factor * IN(grad + j) + of_v * IN(d->row_v + j);
            for (; j < n; ++j) out[j] = factor * grad[j] + of_v * d->row_v[j];
        } else {
            for (; j + LANES <= n; j += LANES) AT(out + j) = factor * IN(grad + j);
            for (; j < n; ++j) out[j] = factor * grad[j];
        }
        if (d->column_u != NULL) NAME(add_modulo)(out, space, d->column_v + i * k, n, k, space + n);
    }
}

/* Takes from x, of unit length, its parts along `count` orthonormal rows, and again where rounding may have left some;
   returns the length of what is left. */
TARGET static double NAME(left_of)(float *x, const float *rows, Py_ssize_t count, Py_ssize_t n) {
    double before, left = 1;
    do {
        before = left;
        for (Py_ssize_t i = 0; i < count; ++i) {
            const float *row = rows + i * n;
            const float part = (float)NAME(inner)(x, row, n);
            Py_ssize_t j = 0;
            for (; j + LANES <= n; j += LANES) AT(x + j) -= part * IN(row + j);
            for (; j < n; ++j) x[j] -= part * row[j];
        }
        left = count ? sqrt(NAME(inner)(x, x, n)) : 1;
    } while (left < 0.5 * before && left > LEFT);
    return left;
}

/* Makes rows orthonormal, the first `known` of which are, in order; one that depends on those before is replaced by
   what is left of a unit vector. */
TARGET static void NAME(orthonormalize)(float *rows, Py_ssize_t known, Py_ssize_t count, Py_ssize_t n) {
    Py_ssize_t next = 0;
    for (Py_ssize_t i = known; i < count; ++i) {
        float *row = rows + i * n;
        NAME(unit)(row, n);
        double left = row[0] == row[0] ? NAME(left_of)(row, rows, i, n) : 0;
        for (; !(left > LEFT) && next < n; ++next) {
            memset(row, 0, sizeof(float) * n);
            row[next] = 1;
            left = NAME(left_of)(row, rows, i, n);
            if (left * left * n < 0.5) left = 0; /* of all unit vectors some have more */
        }
        if (left > LEFT) NAME(unit)(row, n);
        else memset(row, 0, sizeof(float) * n); /* the space is full */
    }
}

/* y[t] = x[t] W, t < count, W of shape (m, n); a few rows at a time, which stay in the nearest cache. */
TARGET static void NAME(times)(
    float *y, const float *x, const float *w, Py_ssize_t count, Py_ssize_t m, Py_ssize_t n
) {
    memset(y, 0, sizeof(float) * count * n);
    for (Py_ssize_t i = 0; i < m; i += 4) {
        const Py_ssize_t height = m - i < 4 ? m - i : 4;
        for (Py_ssize_t t = 0; t < count; ++t) NAME(add_rows)(y + t * n, w + i * n, x + t * m + i, height, n);
    }
}

/* x[t] = y[t] Wᵀ, t < count. */
TARGET static void NAME(times_transposed)(
    float *x, const float *y, const float *w, Py_ssize_t count, Py_ssize_t m, Py_ssize_t n
) {
    for (Py_ssize_t i = 0; i < m; ++i) {
        for (Py_ssize_t t = 0; t < count; ++t) x[t * m + i] = (float)NAME(inner)(y + t * n, w + i * n, n);
    }
}

/* As poise.spectra.tracking's rounds, on the shorter side of W: block Lanczos for WWᵀ (or WᵀW) from the basis, then the
   best of the space it made; without steps the next basis is WWᵀ times the best of this one. */
TARGET static void NAME(follow)(const Follow *f, void *memory) {
    const Py_ssize_t is_tall = f->rows > f->columns, m = is_tall ? f->columns : f->rows;
    const Py_ssize_t n = is_tall ? f->rows : f->columns, count = f->count, size = count * (f->steps + 1);
    double *gram = memory, *turn = gram + size * size;
    float *space = (float *)(turn + size * size), *back = space + size * m, *images = back + count * m;
    memcpy(space, f->basis, sizeof(float) * count * m);
    for (Py_ssize_t step = 0; step <= f->steps; ++step) {
        const float *vectors = space + step * count * m;
        float *newest = images + step * count * n;
        if (is_tall) NAME(times_transposed)(newest, vectors, f->w, count, n, m);
        else NAME(times)(newest, vectors, f->w, count, m, n);
        if (step == f->steps && step > 0) break;
        if (is_tall) NAME(times)(back, newest, f->w, count, n, m);
        else NAME(times_transposed)(back, newest, f->w, count, m, n);
        if (f->steps == 0) break;
        memcpy(space + (step + 1) * count * m, back, sizeof(float) * count * m);
        NAME(orthonormalize)(space, (step + 1) * count, (step + 2) * count, m);
    }
    double trace = 0;
    for (Py_ssize_t i = 0; i < size; ++i) {
        for (Py_ssize_t j = 0; j <= i; ++j) {
            gram[i * size + j] = gram[j * size + i] = NAME(inner)(images + i * n, images + j * n, n);
        }
        trace += gram[i * size + i];
    }
    const int is_finite = trace - trace == 0;
    if (is_finite) diagonalize(gram, turn, size);
    for (Py_ssize_t t = 0; t < f->wanted; ++t) {
        const double square = gram[t * size + t];
        f->values[t] = !is_finite ? NAN : square > 0 ? (float)sqrt(square) : 0;
    }
    if (!is_finite || !(trace > 0)) return;
    memset(f->basis, 0, sizeof(float) * count * m);
    const float *from = f->steps ? space : back;
    for (Py_ssize_t t = 0; t < count; ++t) {
        for (Py_ssize_t i = 0; i < size; ++i) {
            const float part = (float)turn[i * size + t];
            for (Py_ssize_t j = 0; j < m; ++j) f->basis[t * m + j] += part * from[i * m + j];
        }
    }
    NAME(orthonormalize)(f->basis, 0, count, m);
}

static const Loops NAME(loops) = {NAME(round), NAME(derive), NAME(follow)};
