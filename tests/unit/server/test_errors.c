#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/errors.h"

static void test_table(void **state) {
    (void)state;
    error_set_prefix("OCI");
    for (int i = 0; i < ERROR_ID_COUNT; i++) {
        enum error_id id = (enum error_id)i;
        assert_true(error_code(id)[0] && error_code(id)[0] != '%');
        assert_in_range(error_status(id), 400, 599);
        assert_true(strlen(error_text(id)) > 10);
        assert_true(strlen(error_code(id)) < ERROR_CODE_MAX);
    }
}

static void test_error_server(void **state) {
    (void)state;
    struct error err = {0};
    error_set_prefix("DOCKER");
    assert_int_equal(error_server(&err, ERR_R_SANDBOX_NOT_FOUND, "no %s", "x"), -1);
    assert_string_equal(err.code, "DOCKER::SANDBOX_NOT_FOUND");
    assert_string_equal(err.message, "no x");
    assert_int_equal(err.status, 404);
    assert_true(err.kind > 0);
    assert_int_equal(error_server(&err, ERR_TOO_MANY, "full"), -1);
    assert_string_equal(err.code, "SANDBOX::TOO_MANY");
    assert_int_equal(err.status, 429);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table),
                                       cmocka_unit_test(test_error_server)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
