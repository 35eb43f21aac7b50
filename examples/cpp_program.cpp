/* cpp_program: the library from C++11. Handles in unique_ptr, failures as exceptions, a std::vector
   as the file.

       build/cpp_program

   Writes a volume as int16 with a slope of .01 into memory, reads it back, and prints the largest
   change of a voxel: 0.0050, half a step. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct destroy {
    void operator()(qnet_context *p) const { qnet_context_destroy(p); }
    void operator()(qnet_volume *p) const { qnet_volume_destroy(p); }
};
using context = std::unique_ptr<qnet_context, destroy>;
using volume = std::unique_ptr<qnet_volume, destroy>; /* to be declared after its context */

static void check(const context &ctx, qnet_status status)
{
    if (status != QNET_OK)
        throw std::runtime_error(std::string(qnet_status_name(status)) + ": " +
                                 qnet_last_error(ctx.get()));
}

static context make_context()
{
    qnet_hooks hooks = qnet_hooks(); /* all zero: the defaults */
    qnet_context *ctx = nullptr;
    hooks.log.message = [](void *, qnet_log_level, const char *text) { std::puts(text); };
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) throw std::bad_alloc();
    return context(ctx);
}

static volume make_volume(const context &ctx, int nx, int ny, int nz)
{
    qnet_volume *v = nullptr;
    check(ctx, qnet_volume_create(ctx.get(), nx, ny, nz, &v));
    return volume(v);
}

/* A callback must not let an exception through C code: it returns non-zero instead. */
static int append(void *user, const void *bytes, size_t size)
{
    try {
        const unsigned char *p = static_cast<const unsigned char *>(bytes);
        std::vector<unsigned char> *to = static_cast<std::vector<unsigned char> *>(user);
        to->insert(to->end(), p, p + size);
        return 0;
    } catch (...) {
        return 1;
    }
}

static std::vector<unsigned char> write(const context &ctx, const volume &v)
{
    std::vector<unsigned char> bytes;
    qnet_sink sink = {&bytes, append, "vector"};
    check(ctx, qnet_nifti_write(ctx.get(), &sink, v.get(), 0.01, 1));
    return bytes;
}

static volume read(const context &ctx, const std::vector<unsigned char> &bytes)
{
    qnet_memory_source memory;
    qnet_source source = qnet_source_memory(&memory, bytes.data(), bytes.size(), "vector");
    qnet_volume *v = nullptr;
    check(ctx, qnet_nifti_read(ctx.get(), &source, &v));
    return volume(v);
}

int main(int argc, char **argv)
{
    const int bad = usage(argc, argv, 0, 0, "cpp_program\n\nA volume through memory and back, in C++11.");
    if (bad >= 0) return bad;
    try {
        const context ctx = make_context();
        const volume v = make_volume(ctx, 40, 30, 20);
        const int count = 40 * 30 * 20;
        for (int i = 0; i < count; i++) v->voxels[i] = static_cast<float>(i % 997) / 8;
        std::vector<unsigned char> bytes = write(ctx, v);
        const volume back = read(ctx, bytes);
        double change = 0;
        for (int i = 0; i < count; i++)
            change = std::max(change, std::fabs(double(v->voxels[i]) - double(back->voxels[i])));
        std::printf("%zu bytes\nlargest change: %.4f\n", bytes.size(), change);
        bytes.resize(bytes.size() / 2);
        try {
            read(ctx, bytes);
        } catch (const std::exception &e) {
            std::printf("half of it: %s\n", e.what());
        }
    } catch (const std::exception &e) {
        std::fprintf(stderr, "cpp_program: %s\n", e.what());
        return 1;
    }
    return 0;
}
