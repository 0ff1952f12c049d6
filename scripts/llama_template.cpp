// Renders chat templates as llama.cpp's server does: by its own Jinja engine, common/jinja, and with what common/chat.cpp
// does to conversations without tools before it (common_chat_templates_init, _apply_jinja, _direct_apply_impl). Built by
// scripts/setup.sh from the source of the installed llama-cpp-python.
//
// Reads JSON lines. The first is the template:
//   {"template": "...", "bos_token": "<s>", "eos_token": "</s>", "date": "01 Jan 2025"}
// `date` is what the template's strftime_now gives. The answer is {"version": "0.3.36"}, of llama-cpp-python. Each line
// after it is a conversation:
//   {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true, "variables": {"date_string": "..."}}
// and gets {"text": "..."}. An answer with "error" says why there is none.

#include "jinja/caps.h"
#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "jinja/value.h"
#include "json.h"

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <string>

using json = common_json;

// The one symbol that json.cpp takes from ggml.
extern "C" [[noreturn]] void ggml_abort(const char * file, int line, const char * format, ...) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, format);
    std::abort();
}

namespace {

bool contains(const std::string & text, const char * part) { return text.find(part) != std::string::npos; }

void remove_check(std::string & source, const std::string & check) {
    for (size_t at = 0; (at = source.find(check, at)) != std::string::npos;) {
        source.replace(at, check.size(), "{%- if false %}");
    }
}

// common_chat_templates_init takes checks out of two families that fail on llama.cpp's own messages.
std::string patch(std::string source) {
    if (contains(source, "<|channel|>") && contains(source, "in message.content or")) {
        remove_check(source, "{%- if \"<|channel|>analysis<|message|>\" in message.content or "
                             "\"<|channel|>final<|message|>\" in message.content %}");
    }
    if (contains(source, "[TOOL_CALLS]") && contains(source, "if (message['content'] is none or")) {
        remove_check(source, "{%- if (message['content'] is none or message['content'] == '' or "
                             "message['content']|length == 0) and (message['tool_calls'] is not defined or "
                             "message['tool_calls'] is none or message['tool_calls']|length == 0) %}");
    }
    return source;
}

std::string trim(const std::string & text) {
    size_t start = 0, end = text.size();
    while (start < end && std::isspace(static_cast<unsigned char>(text[start]))) start++;
    while (end > start && std::isspace(static_cast<unsigned char>(text[end - 1]))) end--;
    return text.substr(start, end - start);
}

json as_parts(const std::string & text) { return json::array({json{{"type", "text"}, {"text", text}}}); }

class Template {
  public:
    explicit Template(const json & request)
        : bos(request.at("bos_token").get<std::string>()),
          eos(request.at("eos_token").get<std::string>()),
          date(request.at("date").get<std::string>()) {
        jinja::lexer lexer;
        auto tokens = lexer.tokenize(patch(request.at("template").get<std::string>()));
        source      = tokens.source;
        program     = jinja::parse_from_tokens(tokens);
        caps        = jinja::caps_get(program);
    }

    std::string render(const json & request) const {
        json inputs{{"messages", prepare(request.at("messages"))}, {"bos_token", bos}, {"eos_token", eos}};
        for (const auto & [name, value] : request.at("variables").items()) {
            inputs[name] = value;
        }
        if (request.at("add_generation_prompt").get<bool>()) {
            inputs["add_generation_prompt"] = true;
        }
        jinja::context context(source);
        context.set_val("strftime_now", jinja::mk_val<jinja::value_func>("strftime_now", [this](const jinja::func_args &) {
                            return jinja::mk_val<jinja::value_string>(date);
                        }));
        jinja::global_from_json(context, inputs, /* mark_input= */ true);
        jinja::runtime runtime(context);
        const jinja::value results = runtime.execute(program);
        return jinja::runtime::gather_string_parts(results)->as_string().str();
    }

  private:
    std::string    bos, eos, date, source;
    jinja::program program;
    jinja::caps    caps;

    json prepare(const json & given) const {
        json messages = json::array();
        for (const auto & message : given) {
            messages.push_back(prepare_message(message.at("role").get<std::string>(), message.at("content").get<std::string>()));
        }
        if (!caps.supports_system_role && !messages.empty() && messages.front().at("role") == "system") {
            merge_system(messages);
        }
        return messages;
    }

    json prepare_message(std::string role, std::string content) const {
        if (contains(source, "You have access to the following functions in JSONSchema format")) {
            content = trim(content);  // StepFun
        }
        if (role == "developer" && !contains(source, "<|channel|>")) {
            role = "system";
        }
        const bool is_ministral = contains(source, "[SYSTEM_PROMPT]") && contains(source, "[TOOL_CALLS]") &&
                                  contains(source, "[ARGS]") && !contains(source, "[CALL_ID]");
        const bool takes_parts = caps.supports_typed_content && !caps.supports_string_content;
        json message{{"role", role}};
        if (takes_parts || (is_ministral && (role == "system" || role == "assistant"))) {
            message["content"] = as_parts(content);
        } else {
            message["content"] = content;
        }
        return message;
    }

    static void merge_system(json & messages) {
        if (messages.size() > 1) {
            messages[1]["content"] = messages.front().at("content").get<std::string>() + "\n" +
                                     messages[1].at("content").get<std::string>();
        }
        messages.erase(0);
    }
};

template <typename Answer> void answer(const Answer & make) {
    json written = json::object();
    try {
        make(written);
    } catch (const std::exception & error) {
        written["error"] = std::string(error.what());
    }
    std::cout << written.dump_safe() << std::endl;
}

}  // namespace

int main() {
    std::string                     line;
    std::unique_ptr<const Template> opened;
    if (!std::getline(std::cin, line)) {
        return EXIT_FAILURE;
    }
    answer([&](json & written) {
        written["version"] = std::string(LLAMA_CPP_PYTHON_VERSION);
        opened             = std::make_unique<const Template>(json::parse(line));
    });
    while (opened && std::getline(std::cin, line)) {
        answer([&](json & written) { written["text"] = opened->render(json::parse(line)); });
    }
    return opened ? EXIT_SUCCESS : EXIT_FAILURE;
}
