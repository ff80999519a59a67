#!/usr/bin/env bash
# Everything that must be silent: format, dependency law, banned words, size budgets, headers, cppcheck, clang-tidy.
# Last line: N passed, N failed (a check each).
set -u
cd "$(dirname "$0")/.."
BUILD=${OPENSANDBOX_BUILD:-build}
passed=0 failed=0
sources=$(git ls-files 'src/*.c' 'tests/*.c' 'bench/*.c')
headers=$(git ls-files 'src/*.h' 'tests/*.h' 'bench/*.h')
flags="-std=gnu17 -D_GNU_SOURCE -Isrc -I. -DLLHTTP_STRICT_MODE=1 -isystem /usr/local/share/opensandbox/llhttp/share/include/llhttp"

check() { # name command...
    local name=$1 out
    shift
    if out=$("$@" 2>&1) && [ -z "$out" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf '== %s\n%s\n' "$name" "$(head -60 <<<"$out")"
    fi
}

format() { clang-format --dry-run $sources $headers 2>&1 | grep -E 'warning|error' | head -40; }

# base <- io <- fmt <- http <- programs; inside the server: api -> sandbox -> (store, runtime/runtime.h).
law() { # directory, forbidden include prefixes
    grep -rnE "#include \"($2)" "$1" --include=*.c --include=*.h --include=*.cpp
}
dependency_law() {
    law src/base 'io/|fmt/|http/|execd/|egress/|server/'
    law src/io 'fmt/|http/|execd/|egress/|server/'
    law src/fmt 'http/|io/|execd/|egress/|server/'
    law src/http 'execd/|egress/|server/'
    law src/execd 'egress/|server/'
    law src/egress 'execd/|server/'
    law src/server 'execd/|egress/'
    law src/server/store 'server/(api|sandbox|runtime)/'
    law src/server/sandbox 'server/(api|runtime/(oci|docker|kubernetes))/|sqlite3|http/'
    law src/server/runtime 'server/(api|sandbox|store)/'
    law src/server/api 'server/(store|runtime/(oci|docker|kubernetes))/|sqlite3'
    grep -rn 'sqlite3' src --include=*.c --include=*.h -l | grep -v '^src/server/store/'
    grep -rn 'llhttp' src --include=*.c --include=*.h -l | grep -v '^src/http/h1\.'
    true
}

banned() {
    grep -nEw '(strcpy|strcat|sprintf|vsprintf|strncpy|strtok|atoi|atol|atoll|strtol|strtoul|strtoll|strtoull|sscanf|gets|system|popen|gmtime|localtime|getpwnam|alloca|usleep)[[:space:]]*\(' \
        $(git ls-files 'src/*.c' 'src/*.h')
    grep -nE '\b(sleep|nanosleep)\(' $(git ls-files 'tests/*.c')
    true
}

sizes() { # files 600, headers 150, functions 100 lines, cyclomatic 25; no allow-list
    wc -l $(git ls-files 'src/*.c') | awk '$2 != "total" && $1 > 600 { print $2 ": " $1 " lines, at most 600" }'
    wc -l $(git ls-files 'src/*.h') | awk '$2 != "total" && $1 > 150 { print $2 ": " $1 " lines, at most 150" }'
    pmccabe $(git ls-files 'src/*.c') | awk -F'\t' '$1 > 25 || $5 > 100 { print $6 ": " $7 " cyclomatic " $1 " (25), lines " $5 " (100)" }'
    for d in $(git ls-files src | xargs -n1 dirname | sort -u); do
        n=$(git ls-files "$d/*.c" | grep -cE "^$d/[^/]*$")
        [ "$n" -le 15 ] || echo "$d: $n files, at most 15 .c files a directory"
    done
}

headers_alone() {
    local h
    for h in $(git ls-files 'src/*.h'); do
        echo "$h"
    done | xargs -P2 -I{} sh -c "gcc $flags -fsyntax-only -Wall -x c {} 2>&1 | head -5"
}

cppcheck_all() {
    cppcheck --quiet --std=c11 --inline-suppr --suppressions-list=tools/cppcheck.txt -Isrc -j2 --error-exitcode=0 \
        --enable=warning,portability --library=posix $(git ls-files 'src/*.c') 2>&1 | head -60
}

tidy() {
    git ls-files 'src/*.c' | xargs -P2 -n4 clang-tidy -p "$BUILD/test" --quiet 2>/dev/null | grep -E 'warning:|error:' | sort -u | head -40
    true
}

scripts() { python3 -m py_compile $(git ls-files '*.py') && for s in $(git ls-files '*.sh' .ci/run); do bash -n "$s"; done; }

long_functions() { # not a failure: the budget is 60 and 15
    pmccabe $(git ls-files 'src/*.c') | awk -F'\t' '$1 > 15 || $5 > 60 { print "over budget: " $6 ": " $7 " cyclomatic " $1 ", lines " $5 }'
}

check format format
check dependency-law dependency_law
check banned banned
check sizes sizes
check headers-alone headers_alone
check scripts scripts
check cppcheck cppcheck_all
check clang-tidy tidy
[ "${1:-}" = -v ] && long_functions
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
