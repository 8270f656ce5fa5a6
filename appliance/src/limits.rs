//! Ceilings: the largest value each knob may take, with the reason, and proof that they agree.
//!
//! A limit here bounds memory or work that one outsider can cause. What a box really reserves follows from its
//! configuration and model, and is counted by `budget`.

/// Ceilings of a request that both protocols share: stop strings, and entries of the logit bias.
pub use outstation_wire::frame::{LOGIT_BIAS_MAX, STOP_STRINGS_MAX};

/// Positions in one KV block. Larger wastes more of each sequence's last block, smaller makes longer block tables.
pub const KV_BLOCK_POSITIONS: u32 = 32;

/// Positions of one sequence. Long enough for every published model; a block table of it stays under 128 KiB.
pub const CONTEXT_POSITIONS_MAX: u32 = 1 << 20;

/// Sequences that run at once. One step carries a token of each, so this is also the widest decode.
pub const SEQUENCES_MAX: u32 = 256;

/// Requests that wait for a place. Waiting costs their prompt's token ids and nothing else.
pub const QUEUE_REQUESTS_MAX: u32 = 4096;

/// Tokens of one engine step, prompt and decode together. Workspaces are proportional to it.
pub const STEP_COLUMNS_MAX: u32 = 4096;

/// Prompt tokens of the requests that wait.
pub const QUEUE_TOKENS_MAX: u32 = 1 << 26;

/// Ceiling of a class's `ttft_ms`: a day.
pub const TTFT_MS_MAX: u32 = 86_400_000;

/// Ceiling of a class's `itl_ms`: a minute is silence.
pub const ITL_MS_MAX: u32 = 60_000;

/// Bytes of one request's prompt or message list, over any transport. 4 MiB of text is about a million tokens.
pub const PROMPT_BYTES_MAX: usize = 4 << 20;

/// Bytes of a message's role.
pub const ROLE_BYTES_MAX: usize = 32;

/// Bytes of a `tokenizer.json`. Gemma 3's, the largest that we know of, has 33 MB; parsing takes several times that.
pub const TOKENIZER_JSON_BYTES_MAX: usize = 64 << 20;

/// Bytes of one stop string. The end of a stream is held back by at most this much.
pub const STOP_STRING_BYTES_MAX: usize = 256;

/// Tokens that wait for one slow reader before its request ends with `SlowConsumer`.
pub const STREAM_TOKENS_BUFFERED_MAX: usize = 4096;

/// Likeliest tokens that are said beside each one drawn. Source: OpenAI's API reference, `top_logprobs`.
pub const TOP_LOGPROBS_MAX: usize = 20;

/// Tokens with a log-probability in an answer that is sent as a whole, some 250 bytes each while it is put together.
pub const WHOLE_LOGPROBS_MAX: u32 = 8192;

/// The same as [`STREAM_TOKENS_BUFFERED_MAX`] where each comes with log-probabilities, which have 184 bytes more.
pub const STREAM_LOGPROBS_BUFFERED_MAX: usize = STREAM_TOKENS_BUFFERED_MAX / 4;

/// Connections over QUIC at once. Each may hold its windows, so the product is a line of the budget.
pub const CONNECTIONS_MAX: u32 = 4096;

/// Requests under way at once: those that run, those that wait, and some that are about to be refused.
pub const fn requests_under_way_max(sequences_max: u32, queue_requests_max: u32) -> u32 {
    sequences_max + queue_requests_max + 64
}

/// Segments on their way to the factory at once; each holds a piece of its file.
pub const UPLINK_SEGMENTS_MAX: u32 = 6;

/// Adapters that are served at once: a request looks through all of them.
pub const ADAPTERS_MAX: u32 = 64;

/// Rank of an adapter. Past it a merged model is smaller and faster.
pub const ADAPTER_RANK_MAX: u32 = 512;

/// Bytes of an `adapter_config.json`.
pub const ADAPTER_CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Threads of the kernel team.
pub const THREADS_MAX: u32 = 64;

/// Bytes of a JSON schema. Compiling one takes stack in proportion: 16 MiB were measured for the deepest of this size.
pub const SCHEMA_BYTES_MAX: usize = 32 << 10;

/// Least common multiple of all `multipleOf` of a schema: the library walks the remainders, in time and memory.
pub const SCHEMA_MULTIPLE_MAX: u64 = 1000;

/// Symbols in the rules of a grammar, 40 bytes each. A schema of the most bytes has fewer, unless it multiplies out.
pub const GRAMMAR_SYMBOLS_MAX: usize = 50_000;

/// Steps in which the words of a grammar may be prepared, of 20 ns.
pub const GRAMMAR_COMPILE_STEPS_MAX: u64 = 500_000;

/// States of the reader of a grammar's words, some 800 bytes each: they come up while an answer is drawn.
pub const GRAMMAR_STATES_MAX: usize = 8192;

/// Ways in which what was said so far may be read, at one byte of it: an object of 500 optional properties has 2000.
pub const GRAMMAR_READINGS_MAX: usize = 2000;

/// The same for one mask, over all tokens that may come: about a millisecond of the engine thread.
pub const GRAMMAR_MASK_READINGS_MAX: usize = 20_000;

/// Steps by which new states may be made for one mask: the other 4 to 8 milliseconds, at most.
pub const GRAMMAR_MASK_STEPS_MAX: u64 = 50_000;

/// Bytes that the grammar of one request takes: the states, the rules, and what is read.
pub const GRAMMAR_BYTES_MAX: u64 = 8 << 20;

/// Requests under way with a grammar: those that run, and as many that wait.
pub const fn grammars_max(sequences_max: u32) -> u32 {
    2 * sequences_max
}

/// Schemas that are compiled at once.
pub const GRAMMARS_COMPILING_MAX: u32 = 2;

/// Bytes that compiling one takes: the stack for the deepest schema, and a tree for the broadest.
pub const GRAMMAR_COMPILE_BYTES_MAX: u64 = 32 << 20;

const _: () = assert!(CONTEXT_POSITIONS_MAX.is_multiple_of(KV_BLOCK_POSITIONS));
const _: () = assert!(
    SEQUENCES_MAX <= STEP_COLUMNS_MAX,
    "every running sequence decodes in each step"
);
const _: () = assert!(
    usize::BITS == 64,
    "file offsets and pool indexes share one type"
);
