{
  "variables": { "sanitize%": "" },
  "targets": [
    {
      "target_name": "asof",
      "sources": ["<!@(node -p \"require('fs').readdirSync('native').filter(f => f.endsWith('.cc')).sort().map(f => 'native/' + f).join(' ')\")"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_DISABLE_DEPRECATED", "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "_FILE_OFFSET_BITS=64"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++14", "-fno-rtti"],
      "cflags_cc": ["-std=gnu++20", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
      "cflags!": ["-O3"],
      "libraries": ["-ldeflate", "-lzstd", "-lbz2", "-llzma", "-llz4", "-lsnappy"],
      "conditions": [
        ["sanitize!=''", {
          "cflags_cc": ["-fsanitize=<(sanitize)", "-fno-omit-frame-pointer", "-O1"],
          "ldflags": ["-fsanitize=<(sanitize)"]
        }],
        # It does not know fences, and GCC says so; what ours order is atomic by itself. And Node exports functions of the
        # standard library's templates, which it was not built to watch: ours must be ours.
        ["sanitize=='thread'", {
          "cflags_cc": ["-Wno-tsan"],
          "ldflags": ["-Wl,-Bsymbolic-functions"]
        }]
      ]
    },
    {
      # A process of its own: native/freezer/main.cc says why.
      "target_name": "asof-freezer",
      "type": "executable",
      "sources": ["native/freezer/main.cc"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++14"],
      "cflags_cc": ["-std=gnu++20", "-O2", "-Wall", "-Wextra", "-Werror"],
      "libraries": ["-lpthread"]
    },
    {
      # Likewise: native/runner/main.cc.
      "target_name": "asof-runner",
      "type": "executable",
      "sources": ["native/runner/main.cc"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++14"],
      "cflags_cc": ["-std=gnu++20", "-O2", "-Wall", "-Wextra", "-Werror"]
    }
  ]
}
