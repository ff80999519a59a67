// Encodings and digests against the vectors of their RFCs.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"

static void base64_of_rfc_4648(void **state) {
    static const char *const vectors[][2] = {{"", ""},
                                             {"f", "Zg=="},
                                             {"fo", "Zm8="},
                                             {"foo", "Zm9v"},
                                             {"foob", "Zm9vYg=="},
                                             {"fooba", "Zm9vYmE="},
                                             {"foobar", "Zm9vYmFy"}};
    static const char *const bad[] = {
        "Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Zm9v\n", "Zm_v", "Z g="};
    char text[16];
    uint8_t data[16];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
        size_t len = strlen(vectors[i][0]), coded = strlen(vectors[i][1]);
        assert_int_equal(encode_base64(vectors[i][0], len, text), coded);
        assert_string_equal(text, vectors[i][1]);
        assert_int_equal(decode_base64(text, coded, data, sizeof data), len);
        assert_memory_equal(data, vectors[i][0], len);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (decode_base64(bad[i], strlen(bad[i]), data, sizeof data) >= 0)
            fail_msg("'%s' was accepted", bad[i]);
    assert_int_equal(decode_base64("Zm9v", 4, data, 2), -1); // too small
    assert_int_equal(decode_base64("Zm\0v", 4, data, sizeof data), -1);
    assert_int_equal(encode_base64url("\xfb\xff\xfe\xff", 4, text), 6);
    assert_string_equal(text, "-__-_w");
}

static void hex_is_read_and_written(void **state) {
    uint8_t data[3];
    char text[7];
    (void)state;
    assert_int_equal(decode_hex("00fFa5", data, 3), 0);
    assert_memory_equal(data, "\0\xff\xa5", 3);
    encode_hex(data, 3, text);
    assert_string_equal(text, "00ffa5");
    assert_int_equal(decode_hex("00ff", data, 3), -1);
    assert_int_equal(decode_hex("00ffag", data, 3), -1);
    assert_int_equal(decode_hex("00ffa500", data, 3), -1);
}

static void digests_of_their_standards(void **state) {
    char text[SHA256_HEX_SIZE];
    uint8_t out[SHA256_SIZE], key[131];
    (void)state;
    sha256_hex("abc", 3, text); // FIPS 180-4
    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha1("dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 60, out); // RFC 6455 1.3
    assert_int_equal(encode_base64(out, SHA1_SIZE, text), 28);
    assert_string_equal(text, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, out); // RFC 4231 case 2
    encode_hex(out, sizeof out, text);
    assert_string_equal(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof key);
    hmac_sha256(key, sizeof key, "Test Using Larger Than Block-Size Key - Hash Key First", 54,
                out); // 6
    encode_hex(out, sizeof out, text);
    assert_string_equal(text, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void files_are_hashed_from_where_they_stand(void **state) {
    uint8_t whole[SHA256_SIZE], out[SHA256_SIZE];
    static char data[200000];
    (void)state;
    memset(data, 'x', sizeof data);
    int fd = memfd_create("digest", MFD_CLOEXEC);
    assert_int_equal(write(fd, data, sizeof data), sizeof data);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(sha256_fd(fd, out), 0);
    sha256(data, sizeof data, whole);
    assert_memory_equal(out, whole, sizeof out);
    (void)close(fd);
    assert_int_equal(sha256_fd(-1, out), -1);
}

static void comparison_sees_every_byte(void **state) {
    (void)state;
    assert_true(constant_time_equal("abc", "abc", 3));
    assert_true(constant_time_equal("x", "y", 0));
    assert_false(constant_time_equal("abc", "abd", 3));
    assert_false(constant_time_equal("abc", "bbc", 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base64_of_rfc_4648),
        cmocka_unit_test(hex_is_read_and_written),
        cmocka_unit_test(digests_of_their_standards),
        cmocka_unit_test(files_are_hashed_from_where_they_stand),
        cmocka_unit_test(comparison_sees_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
