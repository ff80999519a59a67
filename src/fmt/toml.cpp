// The one C++ file: toml++ on one side, a jansson tree on the other. No exception leaves it.
extern "C" {
#include "base/error.h"
}
#include "fmt/toml.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <string_view>

#include <toml++/toml.h>

namespace {

// Configuration files are small; this keeps a device or a mistaken path from filling the memory.
constexpr size_t FILE_MAX = 4 * 1024 * 1024;

json_t *convert(const toml::node &node, const std::string &key, json_t *lines);

template <typename T> json_t *as_text(const T &value) {
    std::ostringstream out;
    out << value;
    return json_string(out.str().c_str());
}

json_t *convert_table(const toml::table &table, const std::string &key, json_t *lines) {
    json_t *object = json_object();
    for (auto &&[name, value] : table) {
        std::string deeper =
            key.empty() ? std::string(name.str()) : key + "." + std::string(name.str());
        json_object_set_new(lines, deeper.c_str(),
                            json_integer(static_cast<json_int_t>(name.source().begin.line)));
        json_object_set_new(object, std::string(name.str()).c_str(), convert(value, deeper, lines));
    }
    return object;
}

json_t *convert_array(const toml::array &array, const std::string &key, json_t *lines) {
    json_t *list = json_array();
    for (auto &&value : array)
        json_array_append_new(list, convert(value, key, lines));
    return list;
}

json_t *convert(const toml::node &node, const std::string &key, json_t *lines) {
    if (const auto *table = node.as_table())
        return convert_table(*table, key, lines);
    if (const auto *array = node.as_array())
        return convert_array(*array, key, lines);
    if (const auto *text = node.as_string())
        return json_stringn(text->get().data(), text->get().size());
    if (const auto *number = node.as_integer())
        return json_integer(number->get());
    if (const auto *real = node.as_floating_point()) {
        json_t *value = json_real(real->get()); // refuses nan and inf
        return value ? value : json_null();
    }
    if (const auto *boolean = node.as_boolean())
        return json_boolean(boolean->get());
    if (const auto *date = node.as_date())
        return as_text(date->get());
    if (const auto *time = node.as_time())
        return as_text(time->get());
    if (const auto *both = node.as_date_time())
        return as_text(both->get());
    return json_null();
}

json_t *parse(std::string_view text, const char *name, json_t **ret_lines, struct error *err) {
    try {
        toml::table table = toml::parse(text, std::string_view(name));
        json_t *lines = json_object();
        json_t *tree = convert_table(table, std::string(), lines);
        if (ret_lines)
            *ret_lines = lines;
        else
            json_decref(lines);
        return tree;
    } catch (const toml::parse_error &e) {
        const std::string why(e.description());
        error_set(err, EINVAL, "%s:%u:%u: %s", name, static_cast<unsigned>(e.source().begin.line),
                  static_cast<unsigned>(e.source().begin.column), why.c_str());
    } catch (const std::exception &e) {
        error_set(err, ENOMEM, "%s: %s", name, e.what());
    }
    return nullptr;
}

} // namespace

json_t *toml_parse_text(const char *text, const char *name, json_t **ret_lines, struct error *err) {
    return parse(std::string_view(text), name, ret_lines, err);
}

json_t *toml_parse_file(const char *path, json_t **ret_lines, struct error *err) {
    FILE *file = std::fopen(path, "re");
    if (!file) {
        error_errno(err, errno, "configuration file %s", path);
        return nullptr;
    }
    json_t *tree = nullptr;
    try {
        std::string text(FILE_MAX + 1, '\0');
        text.resize(std::fread(&text[0], 1, text.size(), file));
        if (std::ferror(file))
            error_errno(err, errno, "%s", path);
        else if (text.size() > FILE_MAX)
            error_set(err, EFBIG, "%s is larger than 4 MiB: this is no configuration file", path);
        else
            tree = parse(text, path, ret_lines, err);
    } catch (const std::exception &e) {
        error_set(err, ENOMEM, "%s: %s", path, e.what());
    }
    (void)std::fclose(file);
    return tree;
}
