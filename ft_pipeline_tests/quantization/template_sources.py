"""Chat templates of known models: what theirs does with system, user and assistant, without tools and images."""

from __future__ import annotations

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Demo base of this repository: data/base_model/chat_template.jinja.
DEMO = "{{ bos_token }}" + CHATML.replace("+ '\n' }}{% endfor", "}}{% endfor")
# Qwen2.5 puts its own system message where there is none.
QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are \"Qwen\".<|im_end|>\n' }}{% endif %}"
    + CHATML
)
# Qwen3 leaves the reasoning out of the answers before the last user's message.
QWEN3 = """\
{%- set ns = namespace(last=messages|length - 1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role in ('system', 'user') %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set content = m.content %}{% set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}{{- '<|im_start|>assistant\\n' + content }}{% endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
# QwQ strips the line breaks before every answer, and begins the reasoning itself.
QWQ = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + m.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""
LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}\
{% for m in loop_messages %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}\
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}\
{% else %}{% set content = m['content'] %}{% endif %}\
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
LLAMA3 = (
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Llama 3.1 and 3.2 always write a system turn, with two dates.
LLAMA31 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{% set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{% set messages = messages[1:] %}
{%- else %}{% set system_message = "" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{% endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
_MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{% set loop_messages = messages[1:] %}
{%- else %}{% set loop_messages = messages %}{% endif %}
{{- bos_token }}
{%- for m in loop_messages %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{% endif %}
    {%- if m['role'] == 'user' %}
        {%- if loop.PLACE and system_message is defined %}
            {{- 'OPEN' + system_message + '\\n\\n' + m['content'] + 'CLOSE' }}
        {%- else %}{{- 'OPEN' + m['content'] + 'CLOSE' }}{% endif %}
    {%- elif m['role'] == 'assistant' %}{{- ANSWER + eos_token }}
    {%- else %}{{- raise_exception('Only user and assistant roles are supported') }}{% endif %}
{%- endfor %}"""


def _mistral(place: str, opening: str, close: str, answer: str) -> str:
    replaced = _MISTRAL.replace("PLACE", place).replace("OPEN", opening)
    return replaced.replace("CLOSE", close).replace("ANSWER", answer)


# Mistral 7B Instruct v0.2 puts the system message into the first user's turn, v0.3 and Nemo into the last user's.
MISTRAL_V1 = _mistral("first", " [INST] ", " [/INST]", "' ' + m['content'] | trim")
MISTRAL_V3 = _mistral("last", "[INST] ", "[/INST]", "' ' + m['content'] | trim")
MISTRAL_NEMO = _mistral("last", "[INST]", "[/INST]", "m['content']")
# No model's: nothing stands between an answer and what follows it.
MISTRAL_BARE = MISTRAL_NEMO.replace("[INST]", "").replace(" + eos_token", "")
# The first Mistral 7B Instruct v0.1 took no system message.
MISTRAL_V0 = """\
{{ bos_token }}{% for m in messages %}\
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}\
{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token + ' ' }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
# Mistral Small 3 has a system turn, and a default with the date in it.
MISTRAL_SMALL = """\
{%- set default = 'You are Mistral Small 3. The current date is ' + strftime_now('%Y-%m-%d') + '.\\n"Be brief."' %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}{% set loop_messages = messages[1:] %}
{%- else %}{% set system_message = default %}{% set loop_messages = messages %}{% endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}
{%- for m in loop_messages %}
    {%- if m['role'] == 'user' %}{{- '[INST]' + m['content'] + '[/INST]' }}
    {%- elif m['role'] == 'system' %}{{- '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}
    {%- else %}{{- m['content'] + eos_token }}{% endif %}
{%- endfor %}"""
# Gemma 2 refuses system messages and calls the assistant "model".
GEMMA2 = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Gemma 3 puts the system message, with its blanks, before the first user's text.
GEMMA3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for m in loop_messages -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception("roles must alternate") }}{%- endif -%}
    {{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}
    {{- (first_user_prefix if loop.first else "") + m['content'] | trim }}{{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
# Phi-3 ends with EOS where no answer is asked for.
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# The first Phi-3 had no system turn, and left the message out.
PHI3_FIRST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '<|user|>' + '\n' + m['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '<|end|>' + '\n' }}{% endif %}{% endfor %}"
)
PHI4 = (
    "{% for m in messages %}{% if m['role'] in ('system', 'user') %}"
    "{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
# Zephyr and TinyLlama-Chat: line breaks of the source are part of the text.
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
VICUNA = """\
{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
{% set system_message = "A chat between a curious user and an artificial intelligence assistant." %}{% endif %}\
{{ bos_token + system_message }}{% for m in loop_messages %}\
{% if m['role'] == 'user' %}{{ ' USER: ' + m['content'].strip() }}\
{% elif m['role'] == 'assistant' %}{{ ' ASSISTANT: ' + m['content'].strip() + eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"""
ALPACA = """\
{% if messages[0]['role'] == 'system' %}{{ bos_token + messages[0]['content'] + '\n\n' }}\
{% set loop_messages = messages[1:] %}{% else %}{{ bos_token + 'Below are some instructions that describe some tasks. \
Write responses that appropriately complete each request.\n\n' }}{% set loop_messages = messages %}{% endif %}\
{% for m in loop_messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}\
{% elif m['role'] == 'assistant' %}{{ '### Response:\n' + m['content'] + eos_token + '\n\n' }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"""
DEEPSEEK_CODER = """\
{% set ns = namespace(found=false) %}{% for m in messages if m['role'] == 'system' %}{% set ns.found = true %}\
{% endfor %}{{ bos_token }}{% if not ns.found %}{{ 'You are an AI programming assistant.\n' }}{% endif %}\
{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\
{% elif m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n' }}\
{% else %}{{ '### Response:\n' + m['content'] + '\n<|EOT|>\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}"""
# DeepSeek-R1 and its distillations: the system message stands bare behind BOS, reasoning is cut from answers.
DEEPSEEK_R1 = """\
{% set ns = namespace(system='') %}{% for m in messages if m['role'] == 'system' %}\
{% set ns.system = m['content'] %}{% endfor %}{{ bos_token }}{{ ns.system }}\
{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}\
{% elif m['role'] == 'assistant' %}{% set content = m['content'] %}\
{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}\
{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"""
# SmolLM3 strips the system message behind, and answers before, and has a system turn of its own with a date. It looks
# for a word in the system message.
SMOLLM3 = """\
{%- set date = 'Today Date: ' + strftime_now("%d %B %Y") %}
{%- set empty = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- if '/no_think' in messages[0]['content'] %}{% set empty = '<think>\\n\\n</think>\\n' %}{% endif %}
    {%- set custom = messages[0]['content'].replace('/no_think', '').rstrip() %}
{%- else %}{% set custom = 'You are a helpful AI assistant named SmolLM.' %}{% endif %}
{{- '<|im_start|>system\\n## Metadata\\n\\n' + date }}
{{- '\\nReasoning Mode: ' + ('/no_think' if empty else '/think') }}
{{- '\\n\\n## Custom Instructions\\n\\n' + custom + '\\n\\n<|im_end|>\\n' }}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + empty + m.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' + empty }}{% endif %}"""
# gpt-oss: the model itself writes the channel and the mark before an answer.
HARMONY = """\
{{- '<|start|>system<|message|>You are ChatGPT.<|end|>' }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
    {%- else %}
        {{- '<|start|>' + ('developer' if m.role == 'system' else m.role) + '<|message|>' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}"""
