// What comments, strings, keywords and numbers look like in each language. Each part is bounded or linear, so that no text
// takes long. An unclosed string or comment reaches to the end, as it does while an answer grows.

const SLASHES = "//[^\\n]*";
const BLOCK = "/\\*[^]*?(?:\\*/|$)";
const HASH = "#[^\\n]*";
const DASHES = "--[^\\n]*";
const DOUBLE = '"(?:[^"\\\\\\n]|\\\\.)*"';
const SINGLE = "'(?:[^'\\\\\\n]|\\\\.)*'";
const CHARACTER = "'(?:[^'\\\\\\n]|\\\\[^\\n]{1,10}?)'"; // Rust's 'a and C++'s 1'000 are none
const BACKTICKS = "`(?:[^`\\\\]|\\\\[^]?)*(?:`|$)";
const TRIPLE = '"""[^]*?(?:"""|$)|\'\'\'[^]*?(?:\'\'\'|$)';
export const NUMBER = "\\b(?:0[xX][\\da-fA-F_]+|0[bB][01_]+|\\d[\\d_]*(?:\\.\\d[\\d_]*)?(?:[eE][+-]?\\d+)?)[a-zA-Z%]{0,4}\\b";

const C =
  "break case const continue default do else enum extern for goto if return sizeof static struct switch typedef union " +
  "void volatile while";
const TYPES =
  "bool char double float int long short signed unsigned size_t uint8_t uint16_t uint32_t uint64_t int8_t int16_t int32_t " +
  "int64_t";
const CLASSES =
  "abstract catch class extends final finally implements import instanceof interface new null package private protected " +
  "public super this throw throws true false try";
const SCRIPT =
  "async await break case catch class const continue default delete do else export extends false finally for from " +
  "function get if import in instanceof let new null of return set static super switch this throw true try typeof " +
  "undefined var void while yield";

const words = (text) => `\\b(?:${text.split(" ").join("|")})\\b`;
const cLike = (keywords) => ({ comment: `${SLASHES}|${BLOCK}`, string: `${DOUBLE}|${CHARACTER}`, keyword: words(keywords) });

const PYTHON = {
  comment: HASH,
  string: `\\b[rRbBfFuU]{0,2}(?:${TRIPLE}|${DOUBLE}|${SINGLE})|${TRIPLE}|${DOUBLE}|${SINGLE}`,
  keyword: words(
    "and as assert async await break case class continue def del elif else except False finally for from global if import " +
    "in is lambda match None nonlocal not or pass raise return True try while with yield",
  ),
};
const JAVASCRIPT = { comment: `${SLASHES}|${BLOCK}`, string: `${DOUBLE}|${SINGLE}|${BACKTICKS}`, keyword: words(SCRIPT) };
const TYPESCRIPT = {
  ...JAVASCRIPT,
  keyword: words(
    `${SCRIPT} any boolean declare enum implements interface keyof namespace never number private protected public ` +
    "readonly string type unknown",
  ),
};
const JSON_TEXT = { keyword: `${DOUBLE}(?=\\s{0,8}:)`, string: DOUBLE, number: `${NUMBER}|${words("true false null")}` };
const SHELL = {
  comment: "(?<=^|\\s)#[^\\n]*",
  string: `${DOUBLE}|'[^']*(?:'|$)`,
  keyword: words(
    "case cd do done echo elif else esac exit export fi for function if in local return set source sudo then until while",
  ),
  number: "\\$(?:\\w{1,80}|\\{[^}\\n]{1,200}\\}|[@#?*!$-])",
};
const MARKUP = {
  comment: "<!--[^]*?(?:-->|$)",
  keyword: "</?[a-zA-Z][\\w:.-]{0,80}|/?>",
  string: '(?<==)"[^"]*(?:"|$)|(?<==)\'[^\']*(?:\'|$)',
  number: "&#?\\w{1,20};",
};
const STYLES = {
  comment: BLOCK,
  string: `${DOUBLE}|${SINGLE}`,
  keyword: "@[\\w-]{1,40}|(?<![\\w-])[\\w-]{1,60}(?=\\s{0,4}:)",
  number: `#[\\da-fA-F]{3,8}\\b|${NUMBER}`,
};
const SQL = {
  comment: `${DASHES}|${BLOCK}`,
  string: "'(?:[^']|'')*(?:'|$)",
  keyword: words(
    "add all alter and as asc between by case create cross delete desc distinct drop else end exists foreign from full " +
    "group having in index inner insert into is join key left like limit not null offset on or order outer primary " +
    "references right select set table then union unique update values view when where with",
  ),
  flags: "i",
};
const RUST = cLike(
    "as async await bool break char const continue crate dyn else enum extern f32 f64 false fn for i8 i16 i32 i64 if impl " +
    "in isize let loop match mod move mut pub ref return self Self static str struct super trait true type u8 u16 u32 u64 " +
    "unsafe use usize where while",
  );
const YAML = {
  comment: "(?<=^|\\s)#[^\\n]*",
  keyword: "(?<=^[ \\t-]{0,80})[\\w./-]{1,80}(?=:(?:\\s|$))",
  string: `${DOUBLE}|${SINGLE}`,
  number: `${NUMBER}|${words("true false null yes no")}`,
  flags: "m",
};
const TOML = {
  comment: HASH,
  keyword: "^\\[[^\\n]{1,200}|^[\\w.-]{1,80}(?=\\s{0,20}=)",
  string: `${TRIPLE}|${DOUBLE}|'[^'\\n]*'`,
  number: `${NUMBER}|${words("true false")}`,
  flags: "m",
};
const DIFF = {
  comment: "^(?:@@|diff |index |--- |\\+\\+\\+ )[^\\n]*",
  inserted: "^\\+[^\\n]*",
  deleted: "^-[^\\n]*",
  number: null,
  flags: "m",
};
const DOCKERFILE = {
  comment: HASH,
  string: `${DOUBLE}|${SINGLE}`,
  keyword: "^(?:FROM|RUN|CMD|LABEL|EXPOSE|ENV|ADD|COPY|ENTRYPOINT|VOLUME|USER|WORKDIR|ARG|HEALTHCHECK|SHELL)\\b",
  flags: "m",
};

/** [names as after ```, rules]. rules: { comment, string, keyword, number, ..., flags }, each a pattern. */
export const LANGUAGES = [
  ["python py python3 pycon", PYTHON],
  ["javascript js jsx mjs", JAVASCRIPT],
  ["typescript ts tsx", TYPESCRIPT],
  ["json jsonc json5", JSON_TEXT],
  ["bash sh shell zsh console", SHELL],
  ["html xml svg vue", MARKUP],
  ["css scss less", STYLES],
  ["sql sqlite postgresql mysql", SQL],
  ["yaml yml", YAML],
  ["toml ini", TOML],
  ["diff patch", DIFF],
  ["c h", cLike(`${C} ${TYPES} NULL`)],
  ["cpp c++ cc hpp cuda", cLike(
    `${C} ${TYPES} auto catch class concept constexpr delete explicit false friend inline namespace new noexcept nullptr ` +
    "operator override private protected public requires template this throw true try typename using virtual",
  )],
  ["java", cLike(`${C} ${CLASSES} boolean byte char double float int long short var record synchronized`)],
  ["csharp cs c#", cLike(
    `${C} ${CLASSES} async await base bool byte char decimal double float foreach get int internal is lock long namespace ` +
    "object out override readonly ref set short string using var virtual",
  )],
  ["kotlin kt", cLike(
    `${CLASSES} as break by companion continue data do else for fun if in internal is object override return sealed suspend ` +
    "val var when while",
  )],
  ["swift", cLike(
    "as async await break case catch class continue default defer do else enum extension false for func guard if import in " +
    "init inout let nil private protocol public return self Self static struct super switch throw throws true try var where " +
    "while",
  )],
  ["go golang", { ...cLike(
    "any bool break byte case chan const continue default defer else error false fallthrough float64 for func go if import " +
    "int int64 interface map nil package range return rune select string struct switch true type var",
  ), string: `${DOUBLE}|${CHARACTER}|${BACKTICKS}` }],
  ["rust rs", RUST],
  ["php", { ...cLike(
    `${SCRIPT} ${CLASSES} array echo foreach fn namespace use`,
  ), comment: `${SLASHES}|${HASH}|${BLOCK}`, string: `${DOUBLE}|${SINGLE}` }],
  ["ruby rb", { comment: HASH, string: `${DOUBLE}|${SINGLE}`, keyword: words(
    "and begin break case class def do else elsif end ensure false for if in module next nil not or require rescue return " +
    "self super then true unless until when while yield",
  ) }],
  ["lua", { comment: DASHES, string: `${DOUBLE}|${SINGLE}`, keyword: words(
    "and break do else elseif end false for function if in local nil not or repeat return then true until while",
  ) }],
  ["haskell hs", { comment: `${DASHES}|\\{-[^]*?(?:-\\}|$)`, string: DOUBLE, keyword: words(
    "case class data deriving do else if import in instance let module newtype of then type where",
  ) }],
  ["r", { comment: HASH, string: `${DOUBLE}|${SINGLE}`, keyword: words(
    "break else FALSE for function if in library NA next NULL repeat return TRUE while",
  ) }],
  ["dockerfile docker containerfile", DOCKERFILE],
  ["makefile make", { comment: HASH, keyword: "^[\\w./%-]{1,80}(?=:)", string: "\\$[({][^)}\\n]{1,200}[)}]", flags: "m" }],
];
