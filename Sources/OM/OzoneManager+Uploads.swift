import Model
import OMCore
import Wire

// Uploads in parts; their parts are opened and committed like keys.

extension OzoneManager {
    func handle(
        _ method: OMMethod.OfUploads, _ message: [UInt8], _ call: CallID?
    ) async throws(StoreError) -> [UInt8] {
        switch method {
        case .createUpload:
            let request = try OMCreateUploadRequest(parsing: message)
            if request.hasReplication { try await checkPlaceable(request.replication) }
            var command = OMCreateUploadCommand()
            command.request = request
            command.upload = randomIdentity().message
            return try await propose(.createUpload(command), for: call)
        case .upload:
            let request = try OMUploadRequest(parsing: message)
            var response = OMUploadResponse()
            response.upload = try await read { reads throws(StoreError) in
                try reads.upload(request)
            }
            return response.encoded
        case .listParts:
            let request = try OMListPartsRequest(parsing: message)
            return try await read { reads throws(StoreError) in try reads.parts(request) }.encoded
        case .completeUpload:
            let request = try OMCompleteUploadRequest(parsing: message)
            try RequestRules.check(request)
            let answer = try await answer(.completeUpload(request), for: call)
            return try await self.message(of: answer, .completeUpload)
        case .abortUpload:
            return try await propose(
                .abortUpload(OMUploadRequest(parsing: message)), for: call)
        case .listUploads:
            let request = try OMListUploadsRequest(parsing: message)
            try RequestRules.check(request)
            return try await read { reads throws(StoreError) in
                try reads.uploads(request)
            }.encoded
        }
    }
}
