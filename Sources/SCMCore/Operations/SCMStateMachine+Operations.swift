import Model
import Wire

// What is wanted of datanodes. In service is what has no row.

extension SCMStateMachine {
    /// All of the changes, or none where one of the datanodes is not as it is said to be.
    func operate(
        _ change: SCMCommand.Operate, in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        for each in change.changes {
            let id = Identity128(each.operation.node)
            guard transaction.get(SCMTable.nodes, SCMTable.key(id)) != nil else {
                return .refused(.noSuchNode(id))
            }
            let state = operation(of: id, in: transaction)?.state ?? .inService
            guard state == each.from else { return .refused(.nodeIs(id, state)) }
        }
        return .changed(
            change.changes.map { each in
                let id = Identity128(each.operation.node)
                let key = SCMTable.key(id)
                guard each.operation.state != .inService else {
                    transaction.delete(SCMTable.operations, key)
                    return .operation(id, nil)
                }
                transaction.put(SCMTable.operations, key, each.operation.encoded)
                return .operation(id, each.operation)
            })
    }

    private func operation(
        of id: DatanodeID, in transaction: some MetadataReader
    ) -> SCMNodeOperation? {
        transaction.get(SCMTable.operations, SCMTable.key(id)).flatMap {
            try? SCMNodeOperation(parsing: $0)
        }
    }
}
