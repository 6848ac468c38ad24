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
        float sum = 0;
        for (int lane = 0; lane < LANES; ++lane) sum += s0[lane];
        for (; j < end; ++j) sum += a[j] * b[j];
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
    for (j = 0; j < n; ++j) x[j] = (float)(x[j] / length);
    return length;
}

/* y[j mod k] += Σ a[j] b[j], j < n, with space for LANES·k sums. */
TARGET static void NAME(inner_modulo)(float *y, const float *a, const float *b, Py_ssize_t n, Py_ssize_t k, float *sums) {
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
TARGET static void NAME(add_modulo)(float *y, const float *a, const float *x, Py_ssize_t n, Py_ssize_t k, float *copies) {
    Py_ssize_t j = 0;
    if (n >= LANES * k) {
        for (Py_ssize_t i = 0; i < LANES; ++i) memcpy(copies + i * k, x, sizeof(float) * k);
        for (; j + LANES * k <= n; j += LANES * k) {
            for (Py_ssize_t i = 0; i < LANES * k; i += LANES) AT(y + j + i) += IN(a + j + i) * IN(copies + i);
        }
    }
    for (Py_ssize_t r = 0; j < n; ++j, r = r + 1 == k ? 0 : r + 1) y[j] += a[j] * x[r];
}

/* v ← Wᵀu/‖Wᵀu‖, u_new ← Wv/σ, σ = ‖Wv‖, W of `outer` rows. */
TARGET static void NAME(round_of_rows)(Round *r) {
    const Py_ssize_t m = r->outer, n = r->middle * r->kernel;
    memset(r->v, 0, sizeof(float) * n);
    NAME(add_rows)(r->v, r->w, r->u, m, n);
    r->length = NAME(unit)(r->v, n);
    for (Py_ssize_t i = 0; i < m; ++i) r->u_new[i] = (float)NAME(inner)(r->w + i * n, r->v, n);
    r->sigma = NAME(unit)(r->u_new, m);
}

/* The same of the matrix whose rows are counted by the weight's second dimension. */
TARGET static void NAME(round_of_columns)(Round *r, float *space) {
    const Py_ssize_t count = r->outer, m = r->middle, k = r->kernel, n = m * k;
    float *spread = space, *sums = space + n, *lanes_of_k = sums + n;
    spread_out(spread, r->u, m, k);
    memset(r->v, 0, sizeof(float) * count * k);
    for (Py_ssize_t o = 0; o < count; ++o) NAME(inner_modulo)(r->v + o * k, r->w + o * n, spread, n, k, lanes_of_k);
    r->length = NAME(unit)(r->v, count * k);
    memset(sums, 0, sizeof(float) * n);
    for (Py_ssize_t o = 0; o < count; ++o) NAME(add_modulo)(sums, r->w + o * n, r->v + o * k, n, k, lanes_of_k);
    for (Py_ssize_t i = 0; i < m; ++i) {
        float sum = 0;
        for (Py_ssize_t j = 0; j < k; ++j) sum += sums[i * k + j];
        r->u_new[i] = sum;
    }
    r->sigma = NAME(unit)(r->u_new, m);
}

/* out ← factor·(grad − ⟨grad, W⟩/σ̄ · mean of the directions' u vᵀ); without the second term where σ̄ is not above eps. */
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

static const Loops NAME(loops) = {NAME(round_of_rows), NAME(round_of_columns), NAME(derive)};
