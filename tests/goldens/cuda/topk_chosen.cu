// chosen by digits
// kernel0<<<20, 256>>>(read 0, workspace 832)
// kernel1<<<5, 256>>>(workspace 832, read 0, workspace 0, write 0)
// workspace 7232

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, i64* t1) {
    __shared__ Narrow chosen[64];
    const Index line_1 = (Index)blockIdx.x / 4;
    const Index v_2 = (Index)blockIdx.x % 4;
    const Index low_3 = v_2 * 16384;
    const Index count_4 = least<Index>(50000 - low_3, 16384);
    for (int slot = threadIdx.x; slot < 64; slot += 256) {
        chosen[slot] = last_record<Narrow>();
    }
    auto get_5 = [&](Index i) -> Narrow {
        const Index at_6 = low_3 + i;
        return record<Narrow>(sort_key(r0[line_1 * 50000 + at_6]), (u64)at_6);
    };
    choose<Narrow, sizeof(Narrow) == 8 ? 8 : 16>(get_5, count_4, (int)least<Index>(40, count_4), chosen);
    for (int slot = threadIdx.x; slot < 40; slot += 256) {
        Narrow* const at_7 = reinterpret_cast<Narrow*>(t1);
        at_7[(Index)blockIdx.x * 40 + slot] = chosen[slot];
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(i64* t0, const float* r0, float* t2, i64* w0) {
    __shared__ Narrow chosen[64];
    const Index line_1 = (Index)blockIdx.x;
    const Index count_2 = 160;
    for (int slot = threadIdx.x; slot < 64; slot += 256) {
        chosen[slot] = last_record<Narrow>();
    }
    Narrow* const at_4 = reinterpret_cast<Narrow*>(t0);
    auto get_3 = [&](Index i) { return at_4[line_1 * 160 + i]; };
    choose<Narrow, sizeof(Narrow) == 8 ? 8 : 16>(get_3, count_2, (int)least<Index>(40, count_2), chosen);
    sort_shared(chosen, 64, 64);
    for (int slot = threadIdx.x; slot < 40; slot += 256) {
        const i64 index_5 = index_of(chosen[slot]);
        t2[line_1 * 40 + slot] = r0[line_1 * 50000 + ((Index)index_5)];
        w0[line_1 * 40 + slot] = index_5;
    }
}
