// The first line is the pattern, the rest a name: no crash, no endless search, and a name escaped
// byte by byte matches itself.
#include "execd/files/glob.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *pattern = fuzz_text(data, size), *name = strchr(pattern, '\n');
    if (name)
        *name++ = 0;
    struct files_glob *g = files_glob_new(pattern);
    if (g && name && strlen(name) < 256)
        (void)files_glob_match(g, name);
    files_glob_free(g);
    if (name && strlen(name) < 256 && !strchr(name, '/')) {
        char escaped[512], *out = escaped;
        for (const char *p = name; *p; *out++ = *p++)
            if (strchr("*?[]{},!()\\", *p))
                *out++ = '\\';
        *out = 0;
        g = files_glob_new(escaped);
        CHECK(g && files_glob_match(g, name));
        files_glob_free(g);
    }
    free(pattern);
    return 0;
}
