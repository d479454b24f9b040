// NativeIo: the JS handle of one IoReader.
#include <system_error>
#include <unordered_map>

#include "binding/handles.h"
#include "core/io_file.h"
#include "core/io_pieces.h"
#include "core/io_reader.h"
#include "core/memory.h"

namespace zi {
namespace {

/// As Guarded, and says which argument was wrong, and which errno the system gave.
template <typename Body>
auto Translate(Napi::Env env, Body body) {
  return Guarded(env, [&] {
    try {
      return body();
    } catch (const std::out_of_range& error) {
      throw Napi::RangeError::New(env, error.what());
    } catch (const std::invalid_argument& error) {
      throw Napi::TypeError::New(env, error.what());
    } catch (const std::system_error& error) {
      Napi::Error thrown = Napi::Error::New(env, error.what());
      thrown.Set("code", Napi::String::New(env, ErrnoName(error.code().value())));
      throw thrown;
    }
  });
}

Napi::Number Number(Napi::Env env, uint64_t value) { return Napi::Number::New(env, static_cast<double>(value)); }

uint64_t OptionalSize(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return value.IsUndefined() ? 0 : ReadSize(value, name);
}

IoFaultPlan ReadFaults(const Napi::Value& value) {
  IoFaultPlan plan;
  if (!value.IsObject()) return plan;
  const auto faults = value.As<Napi::Object>();
  plan.ring_init_errno = static_cast<int>(OptionalSize(faults, "ringInitErrno"));
  plan.register_errno = static_cast<int>(OptionalSize(faults, "registerErrno"));
  plan.direct_open_errno = static_cast<int>(OptionalSize(faults, "directOpenErrno"));
  plan.direct_read_errno = static_cast<int>(OptionalSize(faults, "directReadErrno"));
  plan.short_every_n = OptionalSize(faults, "shortEveryN");
  plan.eagain_every_n = OptionalSize(faults, "eagainEveryN");
  const Napi::Value error = faults.Get("errorAtFileOffset");
  if (error.IsObject()) {
    plan.error_errno = static_cast<int>(ReadSize(error.As<Napi::Object>().Get("errno"), "errno"));
    plan.error_file_offset = ReadSize(error.As<Napi::Object>().Get("offset"), "offset");
  }
  return plan;
}

IoOptions ReadOptions(const Napi::Value& value) {
  if (!value.IsObject()) throw Napi::TypeError::New(value.Env(), "createIo needs an options object");
  const auto object = value.As<Napi::Object>();
  const std::string engine = object.Get("engine").ToString();
  IoOptions options;
  if (engine == "io_uring") {
    options.engine = IoEngineChoice::kIoUring;
  } else if (engine == "threads") {
    options.engine = IoEngineChoice::kThreads;
  } else if (engine != "auto") {
    throw Napi::TypeError::New(value.Env(), "engine must be auto, io_uring or threads, not " + engine);
  }
  options.queue_depth = ReadSize(object.Get("queueDepth"), "queueDepth");
  options.chunk_bytes = ReadSize(object.Get("chunkBytes"), "chunkBytes");
  options.direct = object.Get("direct").ToBoolean();
  options.fixed_buffers = object.Get("fixedBuffers").ToBoolean();
  options.faults = ReadFaults(object.Get("faults"));
  return options;
}

uint32_t MemoryId(const Napi::Value& value) {
  if (!value.IsObject()) throw Napi::TypeError::New(value.Env(), "expected a NativeMemory");
  return static_cast<uint32_t>(ReadSize(value.As<Napi::Object>().Get("id"), "memory id"));
}

Napi::Object FillFailure(Napi::Env env, Napi::Object error, const IoFailure& failure) {
  error.Set("message", failure.message);
  error.Set("errnoName", failure.errno_name);
  error.Set("file", Number(env, failure.file));
  error.Set("fileOffset", Number(env, failure.file_offset));
  return error;
}

/// The JS handle of IoPieces.
class NativePieces : public Napi::ObjectWrap<NativePieces> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativePieces",
                       {InstanceAccessor<&NativePieces::Id>("id"), InstanceMethod<&NativePieces::Failure>("failure"),
                        InstanceMethod<&NativePieces::Stats>("stats")});
  }
  explicit NativePieces(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativePieces>(info) {}
  static Napi::Value Make(const Napi::FunctionReference& constructor, std::shared_ptr<IoPieces> pieces) {
    const Napi::Object made = constructor.New({});
    Unwrap(made)->pieces_ = std::move(pieces);
    return made;
  }

 private:
  Napi::Value Id(const Napi::CallbackInfo& info) { return Number(info.Env(), pieces_ ? pieces_->id() : 0); }
  Napi::Value Failure(const Napi::CallbackInfo& info) {
    const auto failure = pieces_ ? pieces_->failure() : std::nullopt;
    if (!failure) return info.Env().Null();
    return FillFailure(info.Env(), Napi::Error::New(info.Env(), failure->message).Value(), *failure);
  }
  Napi::Value Stats(const Napi::CallbackInfo& info) {
    const IoPieceStats stats = pieces_ ? pieces_->stats() : IoPieceStats{};
    auto object = Napi::Object::New(info.Env());
    object.Set("bytes", Number(info.Env(), stats.bytes));
    object.Set("busyMs", stats.busy_ms);
    return object;
  }

  std::shared_ptr<IoPieces> pieces_;
};

/// The classes of one environment.
struct IoClasses {
  Napi::FunctionReference io, pieces;
};

class NativeIo : public Napi::ObjectWrap<NativeIo> {
 public:
  static Napi::Function Define(Napi::Env env, IoClasses* classes) {
    return DefineClass(env, "NativeIo",
                       {InstanceAccessor<&NativeIo::Engine>("engine"), InstanceAccessor<&NativeIo::Notes>("notes"),
                        InstanceMethod<&NativeIo::Open>("open"), InstanceMethod<&NativeIo::CloseFile>("closeFile"),
                        InstanceMethod<&NativeIo::Register>("register"),
                        InstanceMethod<&NativeIo::Unregister>("unregister"),
                        InstanceMethod<&NativeIo::Read>("read"),
                        InstanceMethod<&NativeIo::Pieces>("pieces", napi_default, classes),
                        InstanceMethod<&NativeIo::Stats>("stats"),
                        InstanceMethod<&NativeIo::Close>("close")});
  }

  explicit NativeIo(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeIo>(info) {
    const IoOptions options = ReadOptions(info[0]);
    reader_ = Translate(info.Env(), [&] { return std::make_shared<IoReader>(options); });
  }

 private:
  Napi::Value Engine(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), reader_->engine_name()); }

  Napi::Value Notes(const Napi::CallbackInfo& info) {
    auto notes = Napi::Array::New(info.Env());
    for (const std::string& note : reader_->notes()) notes.Set(notes.Length(), note);
    return notes;
  }

  Napi::Value Open(const Napi::CallbackInfo& info) {
    if (!info[0].IsString()) throw Napi::TypeError::New(info.Env(), "path must be a string");
    const std::string path = info[0].As<Napi::String>();
    const auto file = Translate(info.Env(), [&] { return reader_->Open(path); });
    auto opened = Napi::Object::New(info.Env());
    opened.Set("file", Number(info.Env(), file->id()));
    opened.Set("descriptor", file->fd());
    opened.Set("sizeBytes", Number(info.Env(), file->size_bytes()));
    opened.Set("direct", file->direct());
    opened.Set("drive", Number(info.Env(), file->drive));
    opened.Set("alignmentBytes", Number(info.Env(), file->alignment_bytes()));
    return opened;
  }

  void CloseFile(const Napi::CallbackInfo& info) {
    const auto file = static_cast<uint32_t>(ReadSize(info[0], "file"));
    Translate(info.Env(), [&] { reader_->CloseFile(file); });
  }

  Napi::Value Register(const Napi::CallbackInfo& info) {
    const uint32_t id = MemoryId(info[0]);
    return Napi::Boolean::New(info.Env(), Translate(info.Env(), [&] { return reader_->Register(id); }));
  }

  void Unregister(const Napi::CallbackInfo& info) { reader_->Unregister(MemoryId(info[0])); }

  Napi::Value Read(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
      throw Napi::TypeError::New(env, "requests must be a Float64Array");
    }
    const auto words = info[0].As<Napi::Float64Array>();
    auto reads = Translate(env, [&] { return reader_->Check(words.Data(), words.ElementLength()); });

    const uint64_t call = Hold(env);
    const bool urgent = info[1].ToBoolean();
    return Promised(env, [&](const std::shared_ptr<Completion>& completion) {
      reader_->Submit(std::move(reads), urgent, [this, call, completion](IoOutcome outcome) {
        if (outcome.failure) {
          completion->Reject([this, call, failure = std::move(*outcome.failure)](Napi::Env at) {
            return FillError(at, Release(call), failure);
          });
        } else {
          completion->Resolve([this, call, outcome = std::move(outcome)](Napi::Env at) {
            Release(call);
            return Span(at, outcome);
          });
        }
      });
    });
  }

  /// pieces(requests, how many of them each piece has, memory id)
  Napi::Value Pieces(const Napi::CallbackInfo& info) {
    const auto words = info[0].As<Napi::Float64Array>();
    const auto counts = info[1].As<Napi::Float64Array>();
    auto made = Translate(info.Env(), [&] {
      auto reads = reader_->Check(words.Data(), words.ElementLength());
      std::vector<std::vector<IoRead>> pieces;
      size_t at = 0;
      for (size_t i = 0; i < counts.ElementLength(); ++i) {
        const auto count = static_cast<size_t>(counts[i]);
        if (count > reads.size() - at) throw std::invalid_argument("pieces have more reads than there are, or the reader is closed");
        pieces.emplace_back(reads.begin() + static_cast<ptrdiff_t>(at), reads.begin() + static_cast<ptrdiff_t>(at + count));
        at += count;
      }
      auto memory = FindHostMemory(static_cast<uint32_t>(ReadSize(info[2], "memory id")));
      if (!memory) throw std::invalid_argument("unknown, freed or no host memory");
      return MakePieces(reader_, std::move(pieces), std::move(memory));
    });
    return NativePieces::Make(static_cast<IoClasses*>(info.Data())->pieces, std::move(made));
  }

  Napi::Value Stats(const Napi::CallbackInfo& info) {
    const IoStats stats = reader_->stats();
    auto object = Napi::Object::New(info.Env());
    object.Set("bytes", Number(info.Env(), stats.bytes));
    object.Set("reads", Number(info.Env(), stats.reads));
    object.Set("shortReads", Number(info.Env(), stats.short_reads));
    object.Set("retries", Number(info.Env(), stats.retries));
    object.Set("maxInFlight", Number(info.Env(), stats.max_in_flight));
    auto drives = Napi::Array::New(info.Env());
    for (const IoDriveStats& drive : stats.drives) {
      auto one = Napi::Object::New(info.Env());
      one.Set("bytes", Number(info.Env(), drive.bytes));
      one.Set("busyMs", drive.busy_ms);
      drives.Set(drives.Length(), one);
    }
    object.Set("drives", drives);
    return object;
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    const PendingPromise pending = NewPromise(info.Env());
    const uint64_t call = Hold(info.Env());
    reader_->Close([this, call, completion = pending.completion] {
      completion->Resolve([this, call](Napi::Env at) {
        Release(call);
        return at.Undefined();
      });
    });
    return pending.promise;
  }

  /// Keeps this object from being collected while a call is pending, and makes the call's error while the caller is
  /// still on the stack, so that the stack of a failed read says who asked for it.
  uint64_t Hold(Napi::Env env) {
    Ref();
    const uint64_t call = next_call_++;
    errors_.emplace(call, Napi::Persistent(Napi::Error::New(env, "read failed").Value()));
    return call;
  }

  Napi::Object Release(uint64_t call) {
    const auto found = errors_.find(call);
    Napi::Object error = found->second.Value();
    errors_.erase(found);
    Unref();
    return error;
  }

  static Napi::Value FillError(Napi::Env env, Napi::Object error, const IoFailure& failure) {
    // The stack's first line was written with the message of that moment.
    const std::string stack = error.Get("stack").ToString();
    const size_t frames = stack.find("\n    at ");
    error.Set("stack", "Error: " + failure.message + (frames == std::string::npos ? "" : stack.substr(frames)));
    return FillFailure(env, error, failure);
  }

  static Napi::Value Span(Napi::Env env, const IoOutcome& outcome) {
    auto span = Napi::Object::New(env);
    span.Set("startMs", outcome.start_ms);
    span.Set("endMs", outcome.end_ms);
    span.Set("bytes", Number(env, outcome.bytes));
    return span;
  }

  std::unordered_map<uint64_t, Napi::ObjectReference> errors_;  // by call; JS thread only
  uint64_t next_call_ = 0;
  std::shared_ptr<IoReader> reader_;
};

}  // namespace

void InitIo(Napi::Env env, Napi::Object exports) {
  auto classes = std::make_shared<IoClasses>();
  classes->pieces = Napi::Persistent(NativePieces::Define(env));
  classes->io = Napi::Persistent(NativeIo::Define(env, classes.get()));
  // Held by the function for as long as it may be called.
  exports.Set("createIo", Napi::Function::New(env, [classes](const Napi::CallbackInfo& info) -> Napi::Value {
                return classes->io.New({info[0]});
              }));
}

}  // namespace zi
