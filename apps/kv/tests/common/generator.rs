//! Random commands from templates.

use kv::base::Rng;

/// Words of a template: `k` key, `K` key of a sorted set with one score (ranges of names mean nothing on others), `v` value, `i` small integer, `n` any integer or none, `f` score or number, `m` member,
/// `b` score bound, `l` name bound, `t` time, `e` time to live, `o` offset, `g` pattern; a `+` behind one repeats it, a `?` before a word
/// makes it optional, `A/B` chooses, and `=A,i` is one option of several words. Other words stand for themselves.
const TEMPLATES: &str = "
SET k v|SET k v|SET k v ?NX/XX ?GET ?KEEPTTL|SET k v ?=PXAT,t ?NX/XX ?GET|SET k v =EXAT,t ?KEEPTTL|SET k v =EX,e
SETNX k v|SETEX k e v|PSETEX k e v|GET k|GET k|GETSET k v|GETDEL k|GETEX k ?PERSIST|GETEX k =PXAT,t|GETEX k =EX,e
MGET k k ?k|MSET k v k v|MSETNX k v k v|APPEND k v|STRLEN k|SETRANGE k o v|GETRANGE k n n|SUBSTR k i i
INCR k|DECR k|INCRBY k n|DECRBY k n|%INCRBYFLOAT k f|SETBIT k o 0/1/2|GETBIT k o|BITCOUNT k|BITCOUNT k i i ?BYTE/BIT/X
LPUSH k m+|RPUSH k m+|LPUSHX k m|RPUSHX k m|LPOP k ?n|RPOP k ?i|LLEN k|LRANGE k i i|LRANGE k n n|LINDEX k n|LSET k n v
LREM k i m|LTRIM k i i|LINSERT k BEFORE/AFTER/X m v|LPOS k m ?=RANK,i ?=COUNT,i ?=MAXLEN,i|RPOPLPUSH k k
LMOVE k k LEFT/RIGHT LEFT/RIGHT/X
SADD k m+|SADD k i+|SREM k m+|SMEMBERS k|SISMEMBER k m|SMISMEMBER k m+|SCARD k|SMOVE k k m|SINTER k k|SUNION k k|SDIFF k k k
SINTERSTORE k k k|SUNIONSTORE k k k|SDIFFSTORE k k k|SINTERCARD 2 k k ?=LIMIT,i|SINTERCARD i k k
HSET k m v|HSET k m v m v|HSETNX k m v|HMSET k m v m v|HGET k m|HMGET k m+|HGETALL k|HDEL k m+|HEXISTS k m|HLEN k|HKEYS k|HVALS k
HINCRBY k m n|%HINCRBYFLOAT k m f|HSTRLEN k m
ZADD k f m|ZADD k f m f m f m|ZADD k ?NX/XX ?GT/LT ?CH ?INCR f m|ZADD k ?XX ?CH f m f m|ZREM k m+|ZSCORE k m|ZMSCORE k m+
ZINCRBY k f m|ZCARD k|ZCOUNT k b b|ZLEXCOUNT K l l|ZRANK k m|ZREVRANK k m|ZPOPMIN k ?i|ZPOPMAX k ?i
ZRANGE k i i ?REV ?WITHSCORES|ZRANGE k b b BYSCORE ?REV ?WITHSCORES ?=LIMIT,i,i|ZRANGE K l l BYLEX ?REV ?=LIMIT,i,i
ZRANGE k n n ?=LIMIT,i,i|ZREVRANGE k i i ?WITHSCORES|ZRANGEBYSCORE k b b ?WITHSCORES ?=LIMIT,i,i
ZREVRANGEBYSCORE k b b ?WITHSCORES ?=LIMIT,i,i|ZRANGEBYLEX K l l ?=LIMIT,i,i|ZREVRANGEBYLEX K l l ?=LIMIT,i,i
ZREMRANGEBYRANK k i i|ZREMRANGEBYSCORE k b b|ZREMRANGEBYLEX K l l|ZRANGESTORE k k i i ?REV|ZRANGESTORE k k b b BYSCORE ?=LIMIT,i,i
ZUNIONSTORE k 2 k k ?=WEIGHTS,f,f ?=AGGREGATE,SUM/MIN/MAX/X|ZINTERSTORE k 2 k k ?=WEIGHTS,f,f ?=AGGREGATE,SUM/MIN/MAX
ZDIFFSTORE k 2 k k|ZUNION 2 k k ?WITHSCORES|ZINTER 2 k k ?WITHSCORES|ZDIFF 2 k k ?WITHSCORES|ZINTER i k k
ZADD K 0 m 0 m 0 m|ZADD K 0 m 0 m|ZADD K 0 m|ZREM K m|SET K v|DEL K|ZRANK K m
DEL k ?k|UNLINK k|EXISTS k k|TYPE k|TOUCH k k|EXPIREAT k t ?NX/XX/GT/LT|PEXPIREAT k t ?NX/XX ?GT/LT|EXPIRE k e ?NX/XX|PEXPIRE k e
TTL k|PTTL k|EXPIRETIME k|PEXPIRETIME k|PERSIST k|RENAME k k|RENAMENX k k|COPY k k ?REPLACE ?=DB,0/1/x|MOVE k 0/1/2/99
KEYS g|%DBSIZE|SELECT 0/1|SELECT 0|SELECT 0/16/x|SWAPDB 0 1/99|FLUSHDB ?ASYNC/X|ECHO v|PING ?v|OBJECT REFCOUNT k
MULTI|MULTI|EXEC|EXEC|DISCARD|WATCH k k|UNWATCH|NOSUCH k v|OBJECT NOSUCH k|CLIENT NOSUCH|CONFIG NOSUCH x|AUTH x
%SPOP k ?n|%SPOP k i|%SRANDMEMBER k ?n|%HRANDFIELD k ?n|%HRANDFIELD k i WITHVALUES|%ZRANDMEMBER k ?i|%RANDOMKEY
%SCAN 0 ?=COUNT,i ?=MATCH,g ?=TYPE,string/list/x|%SSCAN k 0 ?=COUNT,i ?=MATCH,g|%HSCAN k 0 ?=COUNT,i|%ZSCAN k 0 ?=MATCH,g
";

/// Makes commands from a seed.
pub struct Generator {
    pub rng: Rng,
    templates: Vec<Vec<&'static str>>,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        let lines = TEMPLATES.split(['\n', '|']).filter(|template| !template.is_empty());
        Self { rng: Rng::new(seed), templates: lines.map(|t| t.split_whitespace().collect()).collect() }
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.rng.below(one_in) == 0
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.rng.below(choices.len())]
    }

    /// The next command. Those that answer at random or in an order of their own start with `%`, and are not made
    /// when `plain` is set.
    pub fn next(&mut self, plain: bool) -> Vec<Vec<u8>> {
        loop {
            let template = self.templates[self.rng.below(self.templates.len())].clone();
            if plain && template[0].starts_with('%') {
                continue;
            }
            let mut args = Vec::new();
            template.iter().for_each(|word| self.word(word, &mut args));
            // Now and then an argument too many or too few, which must be refused in the same words.
            if self.chance(40) && args.len() > 1 && !template[0].starts_with('%') {
                if self.chance(2) {
                    args.pop();
                } else {
                    let value = self.value();
                    args.push(value);
                }
            }
            if self.chance(10) {
                args[0].make_ascii_lowercase();
            }
            return args;
        }
    }

    fn word(&mut self, word: &'static str, args: &mut Vec<Vec<u8>>) {
        if let Some(optional) = word.strip_prefix('?') {
            if self.chance(3) {
                self.word(optional, args);
            }
            return;
        }
        if let Some(option) = word.strip_prefix('=') {
            option.split(',').for_each(|part| self.word(part, args));
            return;
        }
        if let Some(repeated) = word.strip_suffix('+') {
            for _ in 0..self.rng.below(4) + 1 {
                self.word(repeated, args);
            }
            return;
        }
        let arg = match word {
            "k" => format!("key:{}", self.rng.below(7)).into_bytes(),
            "K" => format!("names:{}", self.rng.below(2)).into_bytes(),
            "v" => self.value(),
            "i" => format!("{}", self.rng.below(13) as i64 - 4).into_bytes(),
            "n" => self.pick(&INTEGERS).into(),
            "f" => self.number(),
            "m" => self.member(),
            "b" => [self.pick(&["", "", "("]).as_bytes(), &self.number()].concat(),
            "l" => match self.rng.below(8) {
                0 => b"-".into(),
                1 => b"+".into(),
                2 => b"x".into(),
                n => [if n > 4 { b"[" } else { b"(" }, &self.member()[..]].concat(),
            },
            "t" => self
                .pick(&["4000000000000", "4000000001", "4000000000500", "1000", "-5", "0", "x", "9223372036854775000"])
                .into(),
            // Nothing that ends while the test runs: the two servers do not read the clock at the same instant.
            "e" => self
                .pick(&["100000", "4294967296", "9223372036854775807", "-9223372036854775808", "0", "-1", "x"])
                .into(),
            "o" => self.pick(&["0", "1", "5", "30", "100", "-1", "99999999999", "x"]).into(),
            "g" => self.pick(&["*", "key:*", "*[0-3]", "m?", "nothing", "*1*"]).into(),
            word => {
                let choices: Vec<&'static str> = word.split('/').collect();
                self.pick(&choices).into()
            }
        };
        args.push(arg);
    }

    fn member(&mut self) -> Vec<u8> {
        match self.rng.below(30) {
            0 => b"m\0\r\n".into(),
            1 => "long".repeat(self.rng.below(30)).into_bytes(),
            2 => Vec::new(),
            n if n % 3 == 0 => format!("{}", self.rng.below(200)).into_bytes(),
            _ => format!("m{}", self.rng.below(12)).into_bytes(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.below(8) {
            0 => self.number(),
            1 => self.pick(&INTEGERS).into(),
            2 => vec![b'a' + self.rng.below(4) as u8; self.rng.below(100)],
            3 => (0..self.rng.below(9)).map(|_| self.rng.next_u64() as u8).collect(),
            _ => format!("{}", self.rng.below(30)).into_bytes(),
        }
    }

    /// Numbers on which binary doubles and the 80-bit ones of redis agree.
    fn number(&mut self) -> Vec<u8> {
        match self.rng.below(12) {
            0 => self
                .pick(&["inf", "-inf", "+inf", "nan", "x", "", "1e2", "1e5000", " 1", "0.0001220703125", "3.0"])
                .into(),
            1 => format!("{}", self.rng.below(1 << 46) as f64 / 2.0).into_bytes(),
            _ => format!("{}", (self.rng.below(80) as f64 - 20.0) / 4.0).into_bytes(),
        }
    }
}

const INTEGERS: [&str; 24] = [
    "0",
    "1",
    "2",
    "3",
    "5",
    "10",
    "-1",
    "-2",
    "-3",
    "100",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "x",
    "",
    "1.5",
    "01",
    "+1",
    " 1",
    "1 ",
    "-0",
    "12",
    "7",
];
